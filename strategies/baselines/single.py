"""One replica in one process: the baseline that the others are measured against.

θ ← θ − η·g; no communication. ``mode`` says how many examples an update uses: ``minibatch`` the global batch of
``--global-batch``, ``bgd`` all training examples (batch gradient descent), ``sgd`` one (stochastic gradient descent).
Source: Bottou, Curtis & Nocedal, *Optimization Methods for Large-Scale Machine Learning*, SIAM Review 60(2), 2018.

``parts=N`` is for ``--sharding static``: N parts of the data, each in its own order. A global batch has the next
examples of every part. N replicas of another strategy draw the same batches, so the weights are the same up to
rounding.

Limits: ``bgd`` computes the whole set in one step, so its activations must fit in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from ...errors import UsageError
from .._shared.together import Together
from ..base import Place, Task, Traits, option
from ..trainer import Batch, Trainer, Workload

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Single(Together):
    """No distribution."""

    name = "single"
    summary = "one replica, one process: the baseline"
    family = "baselines"
    good_for = "a base to which speed-ups refer"
    traits = Traits("–", "yes", "none", "W + S", "the run ends")
    uneven = True
    max_replicas = 1
    compiles = True
    runs_own_steps = True

    mode: Literal["minibatch", "bgd", "sgd"] = option(
        "minibatch", "examples an update: the global batch, all (bgd), or one (sgd)"
    )

    parts: Annotated[int, Ge(1)] = option(
        1, "with --sharding static: number of parts of the data, as so many replicas draw them"
    )

    def global_batch(self, asked: int, examples: int) -> int:
        """As ``mode`` says. Raises UsageError if the parts don't share it evenly."""
        batch = {"minibatch": asked, "bgd": examples, "sgd": 1}[self.mode]
        if batch % self.parts:
            raise UsageError(
                f"option parts of strategy single must divide the global batch, {batch}. Received: {self.parts}."
            )
        return batch

    def skip_sharding(self, sharding: str) -> str | None:
        """Only static sharding has parts."""
        if self.parts > 1 and sharding != "static":
            return (
                f"parts={self.parts} has no effect with --sharding {sharding}; leave it out, or use --sharding static"
            )
        return None

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker."""
        return [Task(host=place.host(0))]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The plain Keras step in a ``tf.function``."""
        from .._shared.own_step import steps_of
        from .._shared.replica import KerasTrainer, loss_and_gradients, use_gpu
        from .._shared.rows import embeddings, kept_as_rows
        from .._shared.threads import set_threads

        set_threads(1, workload.cores_per_replica)
        use_gpu(0)
        model, optimizer = workload.model(), workload.optimizer()
        optimizer.build(model.trainable_variables)
        trained = model.trainable_variables

        by_rows = kept_as_rows(workload) and bool(embeddings(model))
        sparse: dict[str, None] = {}

        def keep(place: int, ids: int | None) -> bool:
            sparse[trained[place].path] = None
            return True

        def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
            return loss_and_gradients(workload, model, batch, optimizer, rows=keep if by_rows else None)

        steps = steps_of(workload, model, optimizer, compute)
        trainer = KerasTrainer(model, optimizer, workload, steps, shards=self.parts, count=self.parts)
        if by_rows:
            trainer.trace()
            trainer.sparse = list(sparse)
        yield self.in_calls(trainer)
