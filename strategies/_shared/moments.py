"""When tensors were there, taken inside a graph while it runs, on the CPU.

On a GPU an operation is over, for TensorFlow, when it is queued. So a moment says nothing of what computes there.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

Needed = Sequence[tf.Tensor | tf.IndexedSlices | tf.Operation]


def moment(needed: Needed) -> tf.Tensor:
    """Unix seconds when all of these were there. Scalar, float64."""
    with tf.control_dependencies([each.values if isinstance(each, tf.IndexedSlices) else each for each in needed]):
        return tf.timestamp()


def not_before(begin: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors, which nothing can use before that moment.

    TensorFlow runs what is ready in any order: with one thread, it might else compute before it takes the time.
    """
    with tf.control_dependencies([begin]):
        return [tf.identity(each) for each in tensors]
