"""When a step began to exchange, and when all had come: taken inside its graph, while it runs as it does anyway.

What exchanges tensors marks these two moments. So the seconds of a step can be told apart without a second run: those
before the first mark and after the second one are computing, those between are communicating, or waiting for others.
What is exchanged during the backward pass costs nothing here, as long as the last gradient comes later.

Only what computes on CPUs is marked: see `moments`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ..trainer import Split
from .moments import Needed, moment, not_before

if TYPE_CHECKING:
    import numpy as np

    from ..trainer import Batch

Marked = Callable[["Batch"], tuple[Any, ...]]
"""batch → (loss,), or (loss, the moments of each exchange in Unix seconds: (replicas, exchanges, 2), float64)."""

Exchange = list[tf.Tensor]
"""The moments of one, while the step is traced."""

# The replicas of a MirroredStrategy are traced by a thread each.
_traced = threading.local()


def ready(tensors: Needed) -> tf.Tensor | None:
    """An exchange begins: all that this replica gives away in it is computed when these are. → the moment"""
    return _mark(tensors, lambda begin: _traced.found.append([begin]))


def came(tensors: Needed) -> tf.Tensor | None:
    """It is over: all that this replica needs from the others is here when these are. → the moment"""
    return _mark(tensors, lambda end: _traced.found[-1].append(end))


def unknown() -> None:
    """The moments of this step say nothing, so that its split is not known."""
    if hasattr(_traced, "found"):
        _traced.found.append([])


def newest() -> Exchange | None:
    """The exchange that was marked last, for `beside`; None if nothing is marked."""
    return _traced.found[-1] if getattr(_traced, "found", None) else None


def beside(exchange: Exchange | None, tensors: Needed) -> None:
    """These are computed while it goes on: what it takes until they are there is computing."""
    if exchange:
        exchange[0] = tf.maximum(exchange[0], moment(tensors))


def held(mark: Callable[[Needed], tf.Tensor | None], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Mark them by `ready` or `came`, for what is exchanged in one piece. → the tensors, `not_before` that moment."""
    marked_at = mark(tensors)
    return list(tensors) if marked_at is None else not_before(marked_at, tensors)


def marked(body: Callable[[Batch], tf.Tensor]) -> Marked:
    """The body of a step, which also gives its moments if it marks them. They are NaN if they can't be known."""

    def run(batch: Batch) -> tuple[tf.Tensor, ...]:
        with _tracing() as found:
            loss = body(batch)
        if not found:
            return (loss,)
        graph = tf.compat.v1.get_default_graph()
        # What was marked inside a condition is not known outside of it.
        known = all(len(each) == 2 and {mark.graph for mark in each} == {graph} for each in found)
        return loss, tf.stack([found]) if known else tf.fill([1, 1, 2], tf.constant(math.nan, tf.float64))

    return run


def split_of(seconds: float, marked_at: np.ndarray) -> Split | None:
    """Of a step that took so long, by the moments that `marked` gives. None if they are not known."""
    communicating = waiting = 0.0
    exchanges = list(zip(*marked_at.tolist(), strict=True))
    for replicas in exchanges:
        begins, ends = zip(*replicas, strict=True)
        communicating += max(max(ends) - max(begins), 0.0)
        # In this process, for its slowest replica.
        waiting += max(begins) - sum(begins) / len(begins)
    if not math.isfinite(communicating):
        return None
    return Split(seconds - communicating - waiting, communicating, waiting, max(begin for begin, _ in exchanges[0]))


@contextmanager
def _tracing() -> Iterator[list[Exchange]]:
    _traced.found = []
    try:
        yield _traced.found
    finally:
        del _traced.found


def _mark(tensors: Needed, keep: Callable[[tf.Tensor], None]) -> tf.Tensor | None:
    if not hasattr(_traced, "found") or not on_cpus():
        return None
    found = moment(tensors)
    keep(found)
    return found


def on_cpus() -> bool:
    """Whether this process computes on CPUs only."""
    return all(each.device_type == "CPU" for each in tf.config.list_logical_devices())
