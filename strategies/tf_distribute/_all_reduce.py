"""What replicas of tf.distribute compute together, beside the sum of gradients in Keras's optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from .._shared.exchanging import exchanging
from .._shared.own_optimizers import each


def sum_first(optimizer: keras.optimizers.Optimizer, given: bool = False) -> keras.optimizers.Optimizer:
    """The optimizer, which now sums the replicas' gradients before all else that it does with them.

    Keras's optimizers first clip each replica's own gradient, or check that it is finite, and sum the results: N
    replicas would not train what one does.

    Args:
        given: whether what it is given is of all replicas already.
    """
    for one in each(optimizer):
        inner = getattr(one, "inner_optimizer", one)
        kind = type(inner)
        inner.__class__ = type(kind.__name__, (_Summed, kind), {})
        if not given:
            exchanging(one, _sums)
    return optimizer


def mean_over_replicas(value: Any) -> Any:
    """See `stratbench.strategies.trainer.Mean`; of a list, the means."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


def _sums(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)


class _Summed:
    """A Keras optimizer that is given sums. What it overrides is not public; the conformance suite compares results."""

    def _all_reduce_sum_gradients(self, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return pairs
