"""Centralised data parallelism: a master gathers the gradients, updates the weights and broadcasts them.

g = Σ n_i g_i / Σ n_i over each process's mean gradient g_i of its n_i examples; θ ← θ − η·g on rank 0, then θ to all.
``weights=w_0+w_1+…``: g = Σ w_i g_i / Σ w_i, over the processes that have examples, whatever their numbers.
Rank 0 is the master and computes a replica too. The gather is an all-to-all in which every process sends to rank 0
only.
Source: Ben-Nun & Hoefler, *Demystifying Parallel and Distributed Deep Learning: An In-depth Concurrency Analysis*,
ACM Computing Surveys 52(4), 2019.

Limits: rank 0 receives N−1 gradients one after the other and holds N of them at once, so its network link and its
memory limit N. Horovod's gather over MPI counts elements in 32 bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..base import Task, Traits, option
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange
from ._collective import Collective, broadcast, like_weighted, weighted_gradients

if TYPE_CHECKING:
    import tensorflow as tf

_FORM = "positive numbers, separated by +, one for each worker."


@dataclasses.dataclass(frozen=True)
class MasterWorker(Collective):
    """One process a replica; the first one is also the master."""

    name = "master-worker"
    summary = "centralised: rank 0 gathers all gradients, updates, broadcasts the weights (Horovod's collectives)"
    family = "data parallel"
    good_for = "an optimizer whose state is needed once only, and few workers"
    traits = Traits("yes", "yes", "W each way; the master (N−1)·W each way", "W; the master W + S", "the run ends")
    uneven = True
    compiles = True

    weights: str = option("", "of the workers' gradients in the mean, in order, such as 1+1+0.5; by default n_i")

    def __post_init__(self) -> None:
        """Raises UsageError for weights that are no positive numbers."""
        if not all(math.isfinite(each) and each > 0 for each in self._weights()):
            raise UsageError(f"option weights of strategy master-worker: {_FORM} Received: {self.weights}.")

    def _weights(self) -> list[float]:
        """One a worker; none if the numbers of examples are to weigh."""
        try:
            return [float(each) for each in self.weights.split("+")] if self.weights else []
        except ValueError:
            return [math.nan]

    def skip(self, replicas: int) -> str | None:
        """Weights are given for each worker."""
        if self.weights and len(self._weights()) != replicas:
            return f"weights has {len(self._weights())} numbers for {replicas} replicas; give one for each"
        return super().skip(replicas)

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """N−1 gradients sent to the master and received by it, and N−1 copies of the weights on their way back."""
        return 4.0 * (replicas - 1) * weights_bytes / accumulate

    def reduced(self, accumulate: int = 1) -> float:
        """Gradients in, weights out."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Rank 0 receives a gradient of each other, then sends each the weights."""
        return Exchange(2.0 * (replicas - 1), 2.0 * (replicas - 1)).scaled(1 / accumulate)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The ranks run different graphs, so the collectives have explicit names."""
        with self.joined(workload) as hvd:
            import tensorflow as tf

            from .._shared import marks
            from .._shared.accumulation import Accumulation
            from .._shared.replica import KerasTrainer, size_bytes
            from .._shared.vectors import flat, parts

            master = hvd.rank() == 0
            model, optimizer = workload.model(), workload.optimizer()
            broadcast(hvd, model.variables)
            if master:
                optimizer.build(model.trainable_variables)
            trained = model.trainable_variables
            weights = [v.value for v in trained]

            chosen = self._weights()

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                loss, sums, count = weighted_gradients(hvd, workload, model, batch)
                if chosen:
                    weight = tf.where(count > 0, tf.cast(chosen[hvd.rank()], count.dtype), 0.0)
                    sums = [tf.math.divide_no_nan(each, count) * weight for each in sums]
                    count = weight
                return loss, [*sums, count]

            def apply(sums: Sequence[tf.Tensor]) -> None:
                (row,) = marks.held(marks.ready, [flat(sums)[tf.newaxis]])
                to_master = tf.one_hot(0, hvd.size(), dtype=tf.int32)
                rows, _ = hvd.alltoall(row, to_master, name="gradients", ignore_name_scope=True)
                if master:
                    (rows,) = marks.held(marks.came, [rows])
                    total = tf.reduce_sum(rows, axis=0)
                    optimizer.apply(parts(total[:-1] / total[-1], weights), trained)
                    (mine,) = marks.held(marks.ready, [flat(weights)])
                else:
                    # No row arrived, and only the shape matters. But TensorFlow removes a gather that nothing depends
                    # on.
                    mine = tf.reduce_sum(rows, axis=0)[:-1]
                updated = hvd.broadcast(mine, 0, name="weights", ignore_name_scope=True)
                (updated,) = marks.held(marks.came, [updated])
                # On the master too, where it changes nothing: else TensorFlow removes its part of the broadcast.
                for variable, value in zip(weights, parts(updated, weights), strict=True):
                    variable.assign(value)

            steps = Accumulation(workload.accumulate, like_weighted(trained), compute, apply)
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            in_transit = size_bytes(trained) * (hvd.size() if master else 1)
            trainer.memory = dataclasses.replace(trainer.memory, transient_bytes=in_transit)
            yield trainer
