"""When a step began to exchange, and when all had come: taken inside its graph, while it runs as it does anyway.

What exchanges tensors marks these two moments. So the seconds of a step can be told apart without a second run: those
before the first mark and after the second one are computing, those between are communicating, or waiting for others.
What is exchanged during the backward pass costs nothing here, as long as the last gradient comes later.

On a GPU an operation is over, for TensorFlow, when it is queued. So only what computes on CPUs is marked.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from ..trainer import Batch

Marked = Callable[["Batch"], tuple[Any, ...]]
"""batch → (loss,), or (loss, the moments of each exchange in Unix seconds: (exchanges, 2), float64)."""

# The replicas of a MirroredStrategy are traced by a thread each.
_traced = threading.local()


def ready(tensors: Sequence[tf.Tensor | tf.Operation]) -> tf.Tensor | None:
    """An exchange begins: all that this replica gives away in it is computed when these are. → the moment"""
    moment = _moment(tensors)
    if moment is not None:
        _traced.found.append([moment])
    return moment


def came(tensors: Sequence[tf.Tensor | tf.Operation]) -> tf.Tensor | None:
    """It is over: all that this replica needs from the others is here when these are. → the moment"""
    moment = _moment(tensors)
    if moment is not None:
        _traced.found[-1].append(moment)
    return moment


def held(mark: Callable[[Sequence[tf.Tensor]], tf.Tensor | None], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Mark them by `ready` or `came`. → the tensors, which nothing can use before that moment.

    For what is exchanged in one piece. TensorFlow runs what is ready in any order: with one thread, it might run what
    blocks this one before it takes the time.
    """
    moment = mark(tensors)
    if moment is None:
        return list(tensors)
    with tf.control_dependencies([moment]):
        return [tf.identity(each) for each in tensors]


def marked(body: Callable[[Batch], tf.Tensor]) -> Marked:
    """The body of a step, which also gives its moments if it marks them. They are NaN if they can't be known."""

    def run(batch: Batch) -> tuple[tf.Tensor, ...]:
        with _tracing() as found:
            loss = body(batch)
        if not found:
            return (loss,)
        moments = [moment for each in found for moment in each]
        graph = tf.compat.v1.get_default_graph()
        # What was marked inside a condition is not known outside of it.
        known = len(moments) == 2 * len(found) and all(moment.graph is graph for moment in moments)
        return loss, tf.stack(found) if known else tf.fill([1, 2], tf.constant(math.nan, tf.float64))

    return run


@contextmanager
def _tracing() -> Iterator[list[list[tf.Tensor]]]:
    _traced.found = []
    try:
        yield _traced.found
    finally:
        del _traced.found


def _moment(tensors: Sequence[tf.Tensor | tf.Operation]) -> tf.Tensor | None:
    """When these are there."""
    if not hasattr(_traced, "found") or not on_cpus():
        return None
    with tf.control_dependencies([each.values if isinstance(each, tf.IndexedSlices) else each for each in tensors]):
        return tf.timestamp()


def on_cpus() -> bool:
    """Whether this process computes on CPUs only."""
    return all(each.device_type == "CPU" for each in tf.config.list_logical_devices())
