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
    """``ReplicaContext.all_reduce`` of all tensors at once, in a ``tf.function``.

    Args:
        rank: of the first replica of this process. Those of the others follow it.
    """

    def __init__(self, strategy: tf.distribute.Strategy, rank: int = 0):
        self.rank = rank
        self._strategy = strategy

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[tf.Tensor]]:
        """See `Transport.prepare`."""
        given = self._strategy.experimental_distribute_values_from_function(
            lambda context: self._own(context.replica_id_in_sync_group, tensors)
        )

        def each(own: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

        @tf.function(autograph=False)
        def reduce() -> Sequence[tf.Tensor]:
            sums = self._strategy.run(each, (given,))
            return tf.nest.flatten([self._strategy.experimental_local_results(one) for one in sums])

        def finished() -> Sequence[tf.Tensor]:
            sums = reduce()
            finish()
            return sums

        return finished

    def _own(self, replica: int, tensors: Sequence[np.ndarray]) -> list[tf.Tensor]:
        """On the replica's device."""
        place = replica - self.rank
        with tf.device(self._strategy.extended.worker_devices[place]):
            return [tf.constant(each + each.dtype.type(place)) for each in tensors]
