"""``tf.distribute.OneDeviceStrategy``: one replica on one device, through TensorFlow's machinery of replicas.

θ ← θ − η·g, as ``single``; no communication. The difference to ``single`` is what that machinery costs.
Source: https://www.tensorflow.org/api_docs/python/tf/distribute/OneDeviceStrategy
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from .._shared.devices import replica_devices
from ..base import Place, Strategy, Task, Traits
from ..trainer import Trainer, Workload


@dataclasses.dataclass(frozen=True)
class OneDevice(Strategy):
    """One replica."""

    name = "one-device"
    summary = "tf.distribute.OneDeviceStrategy: one replica; beside single, it shows what tf.distribute costs"
    family = "tf.distribute"
    good_for = "knowing what tf.distribute itself costs"
    new_models = True
    traits = Traits("–", "yes", "none", "W + S", "the run ends")
    max_replicas = 1
    runs_own_steps = True

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker."""
        return [Task(host=place.host(0))]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The first GPU, or the CPU."""
        import tensorflow as tf

        from .._shared.threads import set_threads
        from ._in_process import trainer_of

        set_threads(1, workload.cores_per_replica)
        yield trainer_of(tf.distribute.OneDeviceStrategy(replica_devices(1)[0]), workload, copies=1)
