"""Decentralised data parallelism by all-gather: every process receives every gradient and forms the mean itself.

g = Σ n_i g_i / Σ n_i over each process's mean gradient g_i of its n_i examples; every process applies θ ← θ − η·g to
its own copy. No master, at the price of N gradients in memory and N/2 times the traffic of a ring all-reduce.
Gradients are gathered in buckets, while the backward pass goes on.
``share=weights``: every process first updates its own copy by its own gradient, θ_i ← θ_i − η·g_i, then all receive
all θ_i, and θ ← Σ n_i θ_i / Σ n_i. Gradient descent, with momentum or without, then gives the same weights where all
n_i are equal; other optimizers do not, as each process keeps its own state.
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

from ...errors import UsageError
from ..base import Task, Traits, option
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange
from ._collective import Collective, bucket_option, like_weighted, replicate, weighted_gradients

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
    share: Literal["gradients", "weights"] = option("gradients", "what is gathered; weights after each one's update")

    def __post_init__(self) -> None:
        """Raises UsageError for options that go with shared gradients only."""
        if self.share == "weights" and self.bucket_mib != type(self).bucket_mib:
            raise UsageError(
                f"option bucket_mib of strategy allgather is for share=gradients. Received: {self.bucket_mib}."
            )

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it, which must see the mean gradient."""
        return None if self.share == "gradients" else super().skip_loss_scaling()

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each worker's gradient reaches N−1 others; a ring passes it on, which adds up to the same."""
        return 2.0 * replicas * (replicas - 1) * weights_bytes / accumulate

    def reduced(self, accumulate: int = 1) -> float:
        """The gradients, which everyone adds up."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Everyone receives the gradient of each other."""
        return Exchange(replicas - 1.0, replicas - 1.0, hides=True, in_turn=True).scaled(1 / accumulate)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Gathers a flat buffer for each bucket, inside the ``tf.function``."""
        with self.joined(workload, exchanges=True) as hvd:
            import tensorflow as tf

            from .._shared import marks
            from .._shared.accumulation import Accumulation
            from .._shared.buckets import buckets, compute_in_order, exchange
            from .._shared.replica import KerasTrainer, size_bytes
            from .._shared.vectors import flat, parts

            model, optimizer = replicate(hvd, workload)
            trained = model.trainable_variables
            positions = buckets(trained, self.bucket_mib)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                loss, sums, count = weighted_gradients(hvd, workload, model, batch, optimizer)
                if self.share == "gradients":
                    compute_in_order(loss, sums, positions)
                return loss, [*sums, count]

            def gather_weights(sums: Sequence[tf.Tensor]) -> None:
                *sums, count = sums
                optimizer.apply([tf.math.divide_no_nan(each, count) for each in sums], trained)
                weights = [variable.value.read_value() for variable in trained]
                row = tf.concat([flat(weights) * count, [count]], axis=0)[tf.newaxis]
                (row,) = marks.held(marks.ready, [row])
                rows = hvd.allgather(row, name="weights", ignore_name_scope=True)
                (rows,) = marks.held(marks.came, [rows])
                total = tf.reduce_sum(rows, axis=0)
                for variable, mean in zip(trained, parts(total[:-1] / total[-1], weights), strict=True):
                    variable.assign(mean)

            def gather_gradients(sums: Sequence[tf.Tensor]) -> None:
                *sums, count = sums
                # Explicit names, as the graphs of the ranks differ where one has fewer examples than the others.
                names = (f"gradients_{number}" for number in itertools.count())
                counts = hvd.allgather(count[tf.newaxis], name="examples", ignore_name_scope=True)
                total = tf.reduce_sum(counts)

                def mean(bucket: list[tf.Tensor]) -> list[tf.Tensor]:
                    rows = hvd.allgather(flat(bucket)[tf.newaxis], name=next(names), ignore_name_scope=True)
                    return parts(tf.reduce_sum(rows, axis=0) / total, bucket)

                optimizer.apply(exchange(sums, positions, mean), trained)

            apply = gather_gradients if self.share == "gradients" else gather_weights
            steps = Accumulation(workload.accumulate, like_weighted(trained), compute, apply)
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            in_transit = hvd.size() * size_bytes(trained)
            trainer.memory = dataclasses.replace(trainer.memory, transient_bytes=in_transit)
            yield trainer
