"""One replica in one process: the baseline that the others are measured against.

θ ← θ − η·g, sequential mini-batch SGD; no communication.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .base import Address, Strategy, Task, Trainer, Workload

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Single(Strategy):
    """No distribution."""

    name = "single"
    summary = "one replica, one process: the baseline"
    max_replicas = 1

    def tasks(self, replicas: int, address: Address) -> list[Task]:
        """One worker."""
        return [Task()]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The plain Keras step in a ``tf.function``."""
        from ._replica import KerasTrainer, loss_and_gradients, set_threads, use_gpu

        set_threads(1, workload.cores_per_replica)
        use_gpu(0)
        model, optimizer = workload.model(), workload.optimizer()
        optimizer.build(model.trainable_variables)

        def body(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            loss, gradients = loss_and_gradients(workload, model, x, y)
            optimizer.apply(gradients, model.trainable_variables)
            return loss

        yield KerasTrainer(model, optimizer, body)
