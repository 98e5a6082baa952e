"""Decentralised data parallelism by all-gather: every process receives every gradient and forms the mean itself.

g = Σ n_i g_i / Σ n_i over each process's mean gradient g_i of its n_i examples; every process applies θ ← θ − η·g to
its own copy. No master, at the price of N gradients in memory and N/2 times the traffic of a ring all-reduce.
Source: Ben-Nun & Hoefler, *Demystifying Parallel and Distributed Deep Learning: An In-depth Concurrency Analysis*,
ACM Computing Surveys 52(4), 2019.

Limits: every process holds N gradients at once. Horovod counts the gathered elements in 32 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..base import Task, Traits
from ..trainer import Batch, Memory, Trainer, Workload
from ._collective import Collective, replicate, weighted_gradients, weighted_mean

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class AllGather(Collective):
    """One process a replica; all gradients go everywhere."""

    name = "allgather"
    summary = "decentralised: all gradients to all processes, each forms the mean (Horovod's collectives)"
    traits = Traits("yes", "yes", "(N−1)·W each way", "W + S", "the run ends")
    uneven = True

    def traffic_bytes(self, weights_bytes: int, replicas: int) -> float:
        """Each worker's gradient reaches N−1 others; a ring passes it on, which adds up to the same."""
        return 2.0 * replicas * (replicas - 1) * weights_bytes

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Gathers one flat buffer a step, inside the ``tf.function``."""
        with self.joined(workload) as hvd:
            from .._replica import KerasTrainer, size_bytes

            model, optimizer = replicate(hvd, workload)

            def body(batch: Batch) -> tf.Tensor:
                loss, row = weighted_gradients(workload, model, batch)
                rows = hvd.allgather(row, name="gradients", ignore_name_scope=True)
                optimizer.apply(weighted_mean(rows, model), model.trainable_variables)
                return loss

            trainer = KerasTrainer(model, optimizer, body, rank=hvd.rank(), shards=hvd.size())
            in_transit = hvd.size() * size_bytes(model.trainable_variables)
            trainer.memory = Memory(size_bytes(model.variables), size_bytes(optimizer.variables), in_transit)
            yield trainer
