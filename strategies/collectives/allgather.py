"""Decentralised data parallelism by all-gather: every process receives every gradient and forms the mean itself.

g = Σ n_i g_i / Σ n_i over each process's mean gradient g_i of its n_i examples; every process applies θ ← θ − η·g to
its own copy. No master, at the price of N gradients in memory and N/2 times the traffic of a ring all-reduce.
Gradients are gathered in buckets, while the backward pass goes on.
Source: Ben-Nun & Hoefler, *Demystifying Parallel and Distributed Deep Learning: An In-depth Concurrency Analysis*,
ACM Computing Surveys 52(4), 2019.

Limits: every process holds N gradients at once. Horovod counts the gathered elements in 32 bits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from ..base import Task, Traits
from ..trainer import Batch, Trainer, Workload
from ._collective import Collective, bucket_option, flat, like_weighted, parts, replicate, weighted_gradients

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class AllGather(Collective):
    """One process a replica; all gradients go everywhere."""

    name = "allgather"
    summary = "decentralised: all gradients to all processes, each forms the mean (Horovod's collectives)"
    family = "data parallel"
    good_for = "parts of unlike size, which it weighs by examples"
    traits = Traits("yes", "yes", "(N−1)·W each way", "W + S", "the run ends")
    uneven = True
    compiles = True

    bucket_mib: Annotated[float, Ge(0)] | Literal["all"] = bucket_option("gathered")

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each worker's gradient reaches N−1 others; a ring passes it on, which adds up to the same."""
        return 2.0 * replicas * (replicas - 1) * weights_bytes / accumulate

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Gathers a flat buffer for each bucket, inside the ``tf.function``."""
        with self.joined(workload, exchanges=True) as hvd:
            import tensorflow as tf

            from .._shared.accumulation import Accumulation
            from .._shared.buckets import buckets, compute_in_order, exchange
            from .._shared.replica import KerasTrainer, size_bytes

            model, optimizer = replicate(hvd, workload)
            trained = model.trainable_variables
            positions = buckets(trained, self.bucket_mib)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                loss, sums, count = weighted_gradients(hvd, workload, model, batch, optimizer)
                compute_in_order(loss, sums, positions)
                return loss, [*sums, count]

            def apply(sums: Sequence[tf.Tensor]) -> None:
                *sums, count = sums
                # Explicit names, as the graphs of the ranks differ where one has fewer examples than the others.
                names = (f"gradients_{number}" for number in itertools.count())
                counts = hvd.allgather(count[tf.newaxis], name="examples", ignore_name_scope=True)
                total = tf.reduce_sum(counts)

                def mean(bucket: list[tf.Tensor]) -> list[tf.Tensor]:
                    rows = hvd.allgather(flat(bucket)[tf.newaxis], name=next(names), ignore_name_scope=True)
                    return parts(tf.reduce_sum(rows, axis=0) / total, bucket)

                optimizer.apply(exchange(sums, positions, mean), trained)

            steps = Accumulation(workload.accumulate, like_weighted(trained), compute, apply)
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            in_transit = hvd.size() * size_bytes(trained)
            trainer.memory = dataclasses.replace(trainer.memory, transient_bytes=in_transit)
            yield trainer
