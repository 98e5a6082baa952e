"""What replicas of tf.distribute compute together, beside the sum of gradients in Keras's optimizers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from .._shared.clip import Clip


def clip_the_mean(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, which now sums the replicas' gradients before it clips them, if it clips.

    Keras's optimizers clip each replica's own gradient and sum the results: N replicas would not train what one does.
    """
    if Clip.of(vars(optimizer)):
        kind = type(optimizer)
        optimizer.__class__ = type(kind.__name__, (_SumFirst, kind), {})
    return optimizer


def mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """See `stratbench.strategies.trainer.Mean`."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


class _SumFirst:
    """Methods of a Keras optimizer. They are not public; the conformance suite compares what they give."""

    def _clip_gradients(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return super()._clip_gradients(sums)  # type: ignore[misc]

    def _all_reduce_sum_gradients(self, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return pairs
