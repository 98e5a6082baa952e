"""The parts of a synchronous step by themselves, in N processes that run side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from stratbench.strategies.base import Task, Traits, option
from stratbench.strategies.collectives._collective import Collective, replicate
from stratbench.strategies.trainer import Batch, Trainer, Workload

if TYPE_CHECKING:
    import tensorflow as tf

    Computed = tuple[tf.Tensor, list[tf.Tensor]]
    """The loss, and gradients to apply."""


@dataclasses.dataclass(frozen=True)
class Probe(Collective):
    """One part of the step."""

    name = "probe"
    summary = "for measurements: one part of a synchronous step"
    traits = Traits("no", "no", "–", "–", "–")
    synchronous = False

    part: Literal["forward", "computing", "communicating"] = option("computing", "what a step does")

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """``communicating`` is one all-reduce of the weights; ``computing`` a step without any exchange."""
        with self.joined(workload) as hvd:
            import tensorflow as tf
            from stratbench.strategies._shared.accumulation import Accumulation
            from stratbench.strategies._shared.replica import KerasTrainer, loss_and_gradients

            model, optimizer = replicate(hvd, workload)
            trained = model.trainable_variables

            def forward(batch: Batch) -> Computed:
                return workload.total_loss(model, batch), []

            def computing(batch: Batch) -> Computed:
                return loss_and_gradients(workload, model, batch)

            def communicating(batch: Batch) -> Computed:
                means = hvd.grouped_allreduce([each.value.read_value() for each in trained], op=hvd.Average)
                return tf.add_n([tf.reshape(mean, [-1])[0] for mean in means]), []

            def apply(gradients: Sequence[tf.Tensor]) -> None:
                if gradients:
                    optimizer.apply(gradients, trained)

            compute = {"forward": forward, "computing": computing, "communicating": communicating}[self.part]
            steps = Accumulation(1, trained, compute, apply)
            yield KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
