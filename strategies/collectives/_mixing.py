"""Weights of neighbours are mixed, and the mean of all processes' weights is formed only to look at it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import tensorflow as tf

from .._shared.replica import KerasTrainer
from .._shared.vectors import flat, parts
from ..trainer import Batch, StepResult, Trainer
from ._collective import weights_with
from ._pairs import Pairs

if TYPE_CHECKING:
    import numpy as np


class Mixing:
    """Exchanges the weights of one process with its peers'.

    Args:
        peers: the ranks that this one sends to, in each of the steps that repeat; it receives from as many.
        variables: the weights.
    """

    def __init__(self, hvd: ModuleType, peers: Sequence[Sequence[int]], variables: Sequence[tf.Variable]):
        self._hvd, self._variables, self._count = hvd, variables, len(peers[0])
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        sizes = [[int(rank in to) for rank in range(hvd.size())] for to in peers]
        self._splits = tf.constant(sizes, tf.int32) * sum(each.shape.num_elements() for each in variables)

    def change(self) -> tf.Tensor:
        """Σ_j W_ij θ_j − θ_i, where all W_ij that are not 0 are equal. All weights as one vector."""
        own = flat([each.read_value() for each in self._variables])
        if not self._count:
            return tf.zeros_like(own)
        place = tf.cast(self._step % self._splits.shape[0], tf.int32)
        sent = tf.tile(own, [self._count])
        found, _ = self._hvd.alltoall(sent, splits=self._splits[place], name="gossip", ignore_name_scope=True)
        self._step.assign_add(1)
        total = tf.reduce_sum(tf.reshape(found, [self._count, -1]), axis=0)
        return (total - self._count * own) / (self._count + 1)


def consensus(hvd: ModuleType, variables: Sequence[tf.Variable]) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
    """What gives (the mean of all processes' weights as one vector, root of their mean squared distance to it)."""

    @tf.function(autograph=False)
    def meet() -> tuple[tf.Tensor, tf.Tensor]:
        own = flat([each.read_value() for each in variables])
        mean = hvd.allreduce(own, op=hvd.Average, name="consensus", ignore_name_scope=True)
        squares = hvd.allreduce(
            tf.reduce_sum(tf.square(own - mean)), op=hvd.Average, name="distance", ignore_name_scope=True
        )
        return mean, tf.sqrt(squares)

    return meet


class GossipTrainer(Trainer):
    """Steps of ``local``, which mix ``mixed``; the mean over all processes, by ``meet``, at the end of an epoch."""

    def __init__(
        self,
        local: KerasTrainer,
        mixed: Sequence[tf.Variable],
        meet: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    ):
        self.rank, self.shard, self.shards = local.rank, local.shard, local.shards
        self.memory = local.memory
        self._local, self._mixed, self._meet = local, mixed, meet

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`. It waits for its peers only, so its moments say nothing of the others."""
        result = self._local.step(batch, learning_rate)
        split = result.split and dataclasses.replace(result.split, ready_at=None)
        return dataclasses.replace(result, split=split)

    def epoch_figures(self) -> Mapping[str, float]:
        """See `Trainer.epoch_figures`."""
        return {"consensus_distance": float(self._meet()[1])}

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`: the mean over all processes, which none of them trains with."""
        return weights_with(self._local.model, self._mixed, parts(self._meet()[0], self._mixed))


class PairTrainer(GossipTrainer):
    """Steps of ``local`` with weights that `Pairs` exchanges meanwhile.

    Args:
        barrier: returns when all processes have called it.
    """

    def __init__(
        self,
        local: KerasTrainer,
        mixed: Sequence[tf.Variable],
        meet: Callable[[], tuple[tf.Tensor, tf.Tensor]],
        pairs: Pairs,
        barrier: Callable[[], object],
    ):
        super().__init__(local, mixed, self._meet_all)
        self._pairs, self._barrier, self._meet_now = pairs, barrier, meet
        self._load = tf.function(self._assign, autograph=False)
        self._save = tf.function(lambda: flat([each.read_value() for each in mixed]), autograph=False)

    def _assign(self, vector: tf.Tensor) -> None:
        for variable, value in zip(self._mixed, parts(vector, self._mixed), strict=True):
            variable.assign(value)

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`. What it has learned is added to the weights as they are by then."""
        begin = time.perf_counter()
        before = self._pairs.begin()
        self._load(before)
        result = super().step(batch, learning_rate)
        self._pairs.add(self._save().numpy() - before)
        split = result.split and dataclasses.replace(
            result.split, communicating_seconds=time.perf_counter() - begin - result.split.computing_seconds
        )
        return dataclasses.replace(result, split=split)

    def settle(self) -> None:
        """See `Trainer.settle`: processes that are still in their steps may begin exchanges with this one."""
        self._barrier()

    def _meet_all(self) -> tuple[tf.Tensor, tf.Tensor]:
        # None begins an exchange before all have left the all-reduce, and so given their weights.
        self._barrier()
        self._load(self._pairs.weights())
        return self._meet_now()
