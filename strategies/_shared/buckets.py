"""Gradients are exchanged in buckets, each as soon as the backward pass has computed it, while it goes on.

The backward pass begins with the last layer. One exchange of everything would wait for the first layer's gradients, and
a step would take the sum of computing and communicating.
Source: Li et al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*, VLDB 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import tensorflow as tf

from . import marks
from .replica import size_bytes

if TYPE_CHECKING:
    import keras

Buckets = list[list[int]]


def buckets(variables: Sequence[keras.Variable], bucket_mib: float | Literal["all"]) -> Buckets:
    """Positions of the variables whose gradients are exchanged together. The last variables are first.

    Args:
        bucket_mib: the least size of a bucket. What is left at the end joins the bucket before it.
    """
    least = math.inf if bucket_mib == "all" else bucket_mib * 2**20
    found: Buckets = []
    size = math.inf
    for position in range(len(variables) - 1, -1, -1):
        if size >= least:
            found.append([])
            size = 0.0
        found[-1].append(position)
        size += size_bytes([variables[position]])
    if size < least and len(found) > 1:
        rest = found.pop()
        found[-1] += rest
    return found


def compute_in_order(loss: tf.Tensor, gradients: Sequence[tf.Tensor], positions: Buckets) -> None:
    """Have TensorFlow compute the gradients bucket by bucket; call it while the step's graph is built.

    Otherwise the executor may first pass the derivatives through all layers, and compute the gradients of all weights
    after that. Then nothing could be sent meanwhile.
    """
    done = ancestors([loss.op], set())
    earlier: list[tf.Operation] = []
    for bucket in positions:
        ends = [gradients[position].op for position in bucket]
        new = ancestors(ends, done)
        for op in new:
            if any(tensor.op in done for tensor in op.inputs):
                # The public `tf.control_dependencies` is only for operations that are still to be made.
                op._add_control_inputs(earlier)
        done |= new
        earlier = ends


def ancestors(ends: Sequence[tf.Operation], known: set[tf.Operation]) -> set[tf.Operation]:
    """The operations that compute ``ends``, and these, without the known ones and what only they need."""
    found: set[tf.Operation] = set()
    todo = list(ends)
    while todo:
        op = todo.pop()
        if op not in found and op not in known:
            found.add(op)
            todo += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return found


def exchange(
    tensors: Sequence[tf.Tensor],
    positions: Buckets,
    reduce: Callable[[list[tf.Tensor]], Sequence[tf.Tensor]],
    known: Mapping[int, tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """``reduce`` of each bucket, back in the order of ``tensors``.

    Args:
        known: results of some positions, which are exchanged otherwise.
    """
    marks.ready(tensors)
    found = dict(known or {})
    for bucket in ([position for position in bucket if position not in found] for bucket in positions):
        if not bucket:
            continue
        found |= zip(bucket, reduce([tensors[position] for position in bucket]), strict=True)
    means = [found[position] for position in range(len(tensors))]
    marks.came(means)
    return means
