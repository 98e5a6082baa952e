"""Gradient accumulation: the gradients of several steps make one update, and are exchanged once.

With k steps, θ ← θ − η·(1/k) Σ g_j. Which steps update is known in advance, so these have a graph of their own.
Source: ``gradient_accumulation_steps`` of https://keras.io/api/optimizers/, which does not work under tf.distribute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import tensorflow as tf

if TYPE_CHECKING:
    from ..trainer import Batch

Gradients = Sequence[tf.Tensor]
Compute = Callable[["Batch"], tuple[tf.Tensor, Gradients]]
"""batch → loss, gradients; whatever else an update needs of a step may stand among the gradients, as a sum."""
Apply = Callable[[Gradients], None]
Body = Callable[["Batch"], tf.Tensor]
"""batch → loss: what a step does."""


class Steps(Protocol):
    """What a trainer runs; the attributes are those of `Accumulation`."""

    update: Body
    add: Body | None
    sums: list[tf.Variable]


class Accumulation:
    """The step of a strategy: its gradients, and the update by the mean of ``steps`` of them.

    Args:
        steps: k. With 1 there is nothing to add up.
        like: tensors or variables in the shapes and types of the gradients.

    Attributes:
        update: a step that ends with an update.
        add: another one; None if all steps update.
        sums: of gradients, kept between steps.
    """

    def __init__(self, steps: int, like: Sequence[tf.Tensor | tf.Variable], compute: Compute, apply: Apply):
        self._steps, self._compute, self._apply = steps, compute, apply
        self.sums = [_sum(each) for each in like] if steps > 1 else []
        self.update: Body = self._add_and_update if steps > 1 else self._update
        self.add: Body | None = self._add if steps > 1 else None

    def _update(self, batch: Batch) -> tf.Tensor:
        loss, gradients = self._compute(batch)
        self._apply(gradients)
        return loss

    def _add(self, batch: Batch) -> tf.Tensor:
        loss, gradients = self._compute(batch)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(gradient)
        return loss

    def _add_and_update(self, batch: Batch) -> tf.Tensor:
        loss, gradients = self._compute(batch)
        self._apply([(total + g) / self._steps for total, g in zip(self.sums, gradients, strict=True)])
        for total in self.sums:
            total.assign(tf.zeros_like(total))
        return loss


def _sum(like: tf.Tensor | tf.Variable) -> tf.Variable:
    """Under tf.distribute each replica has its own."""
    own = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.SUM}
    distributed = tf.distribute.has_strategy()
    return tf.Variable(tf.zeros(like.shape, like.dtype), trainable=False, **own if distributed else {})
