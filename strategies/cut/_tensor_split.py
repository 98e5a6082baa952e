"""Dense and Embedding layers cut within, by Horovod's collectives: what `model_parallel` does with ``split=tensor``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._shared.whole_weights import skip_optimizers
from ..base import Task
from ..collectives._collective import Collective, broadcast
from ..trainer import Batch, Trainer, Workload

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TensorSplit(Collective):
    """One process a replica. All read the same batches, and compute with their own parts of the weights."""

    name = "model-parallel"

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Those that use a whole weight's norm, rows or columns."""
        return skip_optimizers(settings)

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """One without layers to split."""
        from ._tensor_plan import plan

        if plan(model, replicas):
            return None
        return (
            f"model {model.name} has no Dense or Embedding layer that split=tensor can cut in {replicas}: with as "
            "many units, trained, and without regularisers and constraints; use split=layers"
        )

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Splits the model's layers. The rest is the step of one process."""
        with self.joined(workload) as hvd:
            from .._shared.accumulation import Accumulation
            from .._shared.clip import Clip, unclipped
            from .._shared.replica import loss_and_gradients
            from ._tensor_plan import SplitModel
            from ._tensor_trainer import TensorTrainer

            model = workload.model()
            broadcast(hvd, model.variables)
            split = SplitModel(model, hvd, workload)
            clip, optimizer = Clip.of(workload.optimizer_settings), unclipped(workload.optimizer())
            trained = model.trainable_variables
            optimizer.build(trained)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                return loss_and_gradients(workload, model, batch)

            def apply(gradients: Sequence[tf.Tensor]) -> None:
                optimizer.apply(split.clipped(gradients, clip), trained)

            steps = Accumulation(workload.accumulate, [each.value for each in trained], compute, apply)
            yield TensorTrainer(split, optimizer, workload, steps, rank=hvd.rank())
