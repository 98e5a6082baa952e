"""The all-reduce of ``tf.distribute`` as `stratbench allreduce` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from .._shared.devices import finish
from ..transport import Transport

if TYPE_CHECKING:
    import numpy as np


class DistributeTransport(Transport):
    """``ReplicaContext.all_reduce`` of all tensors at once, in a ``tf.function``."""

    def __init__(self, strategy: tf.distribute.Strategy, rank: int):
        self.rank = rank
        self._strategy = strategy

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[tf.Tensor]]:
        """See `Transport.prepare`."""
        given = [tf.constant(each) for each in tensors]

        def each() -> Sequence[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, given)

        @tf.function(autograph=False)
        def reduce() -> Sequence[tf.Tensor]:
            return self._strategy.run(each)

        def finished() -> Sequence[tf.Tensor]:
            sums = reduce()
            finish()
            return sums

        return finished
