"""Tensors of any shapes as one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The tensors, of one type, one after the other; of none, an empty vector of float32."""
    if not tensors:
        return tf.zeros([0])
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def parts(vector: tf.Tensor, like: Sequence[tf.Variable | tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `flat`: tensors in the shapes of ``like``."""
    if not like:
        return []
    pieces = tf.split(vector, [math.prod(variable.shape) for variable in like])
    return [tf.reshape(piece, variable.shape) for piece, variable in zip(pieces, like, strict=True)]
