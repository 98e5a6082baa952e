"""What a task of a graph sends and receives in one run, by the shapes of the tensors that cross."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

Task = tuple[str, int]
"""Job and index."""


def bytes_of(task: Task, fetched: Sequence[tf.Tensor | tf.Operation], home: Task) -> int | None:
    """What a task sends and receives for what is fetched by another one, or itself; None if some shape is not known.

    A tensor is sent to another task once, however many operations there take it.

    Args:
        home: that fetches. Operations without a device are there, as the session is.
    """
    crossing: dict[tuple[str, Task], tf.Tensor] = {}
    todo = [each.op if isinstance(each, tf.Tensor) else each for each in fetched]
    for each in fetched:
        if isinstance(each, tf.Tensor) and _task(each.op, home) != home:
            crossing[each.name, home] = each
    seen: set[str] = set()
    while todo:
        taker = todo.pop()
        if taker.name in seen:
            continue
        seen.add(taker.name)
        there = _task(taker, home)
        crossing |= {(each.name, there): each for each in taker.inputs if _task(each.op, home) != there}
        todo += [*(each.op for each in taker.inputs), *taker.control_inputs]
    total = 0
    for (_, there), each in crossing.items():
        # What is a handle stays with the variable that it is of.
        if task not in (there, _task(each.op, home)) or each.dtype == tf.resource:
            continue
        if each.shape.num_elements() is None:
            return None
        total += math.prod(each.shape) * each.dtype.size
    return total


def task_of(device: str) -> Task:
    """Job and index of the task of a device."""
    spec = tf.DeviceSpec.from_string(device)
    return spec.job or "", int(spec.task or 0)


def _task(operation: tf.Operation, home: Task) -> Task:
    # TensorFlow puts what reads or changes a variable where the variable is.
    operation = next((each.op for each in operation.inputs if each.dtype == tf.resource), operation)
    return task_of(operation.device) if operation.device else home
