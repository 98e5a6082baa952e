"""What a task of a graph sends and receives in one run, by the shapes of the tensors that cross."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def bytes_of(task: int, fetched: Sequence[tf.Tensor | tf.Operation]) -> int | None:
    """What that task sends and receives for what is fetched by task 0; None if some shape is not known.

    A tensor is sent to another task once, however many operations there take it. Operations without a device are on
    task 0, as the session is.
    """
    crossing: dict[tuple[str, int], tf.Tensor] = {}
    todo = [each.op if isinstance(each, tf.Tensor) else each for each in fetched]
    for each in fetched:
        if isinstance(each, tf.Tensor) and _task(each.op):
            crossing[each.name, 0] = each
    seen: set[str] = set()
    while todo:
        taker = todo.pop()
        if taker.name in seen:
            continue
        seen.add(taker.name)
        crossing |= {(each.name, _task(taker)): each for each in taker.inputs if _task(each.op) != _task(taker)}
        todo += [*(each.op for each in taker.inputs), *taker.control_inputs]
    total = 0
    for (_, there), each in crossing.items():
        # What is a handle stays with the variable that it is of.
        if task not in (there, _task(each.op)) or each.dtype == tf.resource:
            continue
        if each.shape.num_elements() is None:
            return None
        total += math.prod(each.shape) * each.dtype.size
    return total


def task_of(device: str) -> int:
    """Index of the task of a device."""
    return int(tf.DeviceSpec.from_string(device).task or 0)


def _task(operation: tf.Operation) -> int:
    # TensorFlow puts what reads or changes a variable where the variable is.
    operation = next((each.op for each in operation.inputs if each.dtype == tf.resource), operation)
    return task_of(operation.device)
