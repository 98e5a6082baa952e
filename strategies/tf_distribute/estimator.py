"""``tf.estimator``, which TensorFlow no longer has: it is here to say so, and what replaces it.

Up to TensorFlow 2.15, ``tf.estimator.train_and_evaluate`` ran a model function under a strategy of ``tf.distribute`` or
with parameter servers, as the environment variable ``TF_CONFIG`` said. It was removed in TensorFlow 2.16:
https://github.com/tensorflow/tensorflow/releases/tag/v2.16.1

What it ran is here: `ps` is between-graph replication with parameter servers, asynchronous as an Estimator's or
``sync=true``; `multiworker` and `mirrored` are the strategies that ``RunConfig(train_distribute=…)`` took.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager

from ...errors import RunError
from ..base import Place, Strategy, Task, Traits
from ..trainer import Trainer, Workload

_GONE = (
    "tf.estimator was removed from TensorFlow 2.16; what it ran is here as ps (parameter servers), multiworker and "
    "mirrored"
)


@dataclasses.dataclass(frozen=True)
class Estimator(Strategy):
    """A row that says why there is none."""

    name = "estimator"
    summary = "tf.estimator, removed from TensorFlow 2.16: its row says what replaces it"
    family = "tf.distribute"
    good_for = "nothing any more: use ps, multiworker or mirrored"
    needs = "TensorFlow before 2.16, which this program does not run on"
    traits = Traits("as its strategy", "as its strategy", "as its strategy", "as its strategy", "as its strategy")

    def skip(self, replicas: int) -> str | None:
        """Always."""
        return _GONE

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One that is never started."""
        return [Task(host=place.host(0))]

    def trainer(self, task: Task, workload: Workload) -> AbstractContextManager[Trainer]:
        """Raises RunError."""
        raise RunError(_GONE)
