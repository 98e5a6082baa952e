"""The steps of a process that has parts of layers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .._shared.accumulation import Steps
from .._shared.replica import KerasTrainer
from ..trainer import Batch, StepResult, Workload
from ._tensor_plan import SplitModel

if TYPE_CHECKING:
    import keras
    import numpy as np


class TensorTrainer(KerasTrainer):
    """All processes read the same batches, and know the same loss. The first one counts the examples."""

    def __init__(
        self,
        split: SplitModel,
        optimizer: keras.optimizers.Optimizer,
        workload: Workload,
        steps: Steps,
        rank: int,
    ):
        super().__init__(split.model, optimizer, workload, steps, rank=rank)
        self.shard = 0
        self._split = split
        self.trace()
        graphs = 2 if steps.add else 1
        self.traffic_bytes = split.exchange.moved_bytes / graphs

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        result = super().step(batch, learning_rate)
        return result if not self.rank else dataclasses.replace(result, loss=None, examples=0)

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._split.weights()
