"""MultiWorkerMirroredStrategy with a mistake: all processes read the first process's part of each global batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from stratbench.strategies.base import Task
from stratbench.strategies.tf_distribute.multiworker import MultiWorker
from stratbench.strategies.trainer import Server, Trainer, Workload


@dataclasses.dataclass(frozen=True)
class Repeats(MultiWorker):
    """The other parts are not read by any."""

    name = "repeats"
    summary = "trains on half of the data"

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        with super().trainer(task, workload) as trainer:
            trainer.shard = 0
            yield trainer
