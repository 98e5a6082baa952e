"""Clipping of the mean gradient, where Keras's optimizer does not have all of it.

By each weight's norm: g ← g·c / max(‖g‖, c); by the norm of all weights together, ‖g‖² = Σ ‖g_w‖²; by value:
g ← min(max(g, −c), c). Source: Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks*,
ICML 2013; ``clipnorm``, ``global_clipnorm`` and ``clipvalue`` of https://keras.io/api/optimizers/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ..base import CLIPPING

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Clip:
    """The limits; None where there is none."""

    norm: float | None
    global_norm: float | None
    value: float | None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Clip:
        """Of the settings of an optimizer."""
        return cls(*[settings.get(key) for key in CLIPPING])

    def __bool__(self) -> bool:
        return any((self.norm, self.global_norm, self.value))

    @property
    def by_norm(self) -> bool:
        """Whether it depends on more than single elements."""
        return bool(self.norm or self.global_norm)

    def factors(self, squares: tf.Tensor) -> tf.Tensor:
        """What to multiply each weight's gradient by. ``squares``: ‖g_w‖² of each. (weights,) → (weights,)"""
        if self.norm:
            return self.norm / tf.maximum(tf.sqrt(squares), self.norm)
        if self.global_norm:
            norm = tf.sqrt(tf.reduce_sum(squares))
            return tf.fill(squares.shape, self.global_norm / tf.maximum(norm, self.global_norm))
        return tf.ones_like(squares)

    def __call__(self, gradients: Sequence[tf.Tensor], weights: Sequence[int] | None = None) -> Sequence[tf.Tensor]:
        """The clipped gradients. Each is computed where it is; of the norms, only single numbers are sent.

        Args:
            weights: whose gradient, or piece of one, each is: numbers from 0, in ascending order; by default each is
                that of another one.
        """
        if not self:
            return gradients
        clipped = []
        if self.value:
            for gradient in gradients:
                with tf.device(gradient.device):
                    clipped.append(tf.clip_by_value(gradient, -self.value, self.value))
            return clipped
        weights = weights or range(len(gradients))
        squares = []
        for gradient in gradients:
            with tf.device(gradient.device):
                squares.append(tf.reduce_sum(tf.square(gradient)))
        factors = self.factors(tf.math.unsorted_segment_sum(tf.stack(squares), weights, weights[-1] + 1))
        for weight, gradient in zip(weights, gradients, strict=True):
            with tf.device(gradient.device):
                clipped.append(gradient * factors[weight])
        return clipped


def unclipped(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, which leaves clipping to a `Clip`."""
    for key in CLIPPING:
        setattr(optimizer, key, None)
    return optimizer
