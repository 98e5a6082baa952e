"""One replica in one process: the baseline that the others are measured against.

θ ← θ − η·g; no communication. ``mode`` says how many examples an update sees: ``minibatch`` the global batch as asked
for, ``bgd`` all training examples (batch gradient descent), ``sgd`` one (stochastic gradient descent).
Source: Bottou, Curtis & Nocedal, *Optimization Methods for Large-Scale Machine Learning*, SIAM Review 60(2), 2018.

Limits: ``bgd`` computes the whole set in one step, so its activations must fit in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from .base import Address, Strategy, Task, Trainer, Traits, Workload, option

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Single(Strategy):
    """No distribution."""

    name = "single"
    summary = "one replica, one process: the baseline"
    traits = Traits("–", "yes", "none", "W + S", "the run ends")
    uneven = True
    max_replicas = 1

    mode: Literal["minibatch", "bgd", "sgd"] = option(
        "minibatch", "examples an update: the global batch, all (bgd), or one (sgd)"
    )

    def global_batch(self, asked: int, examples: int) -> int:
        """As ``mode`` says."""
        return {"minibatch": asked, "bgd": examples, "sgd": 1}[self.mode]

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
