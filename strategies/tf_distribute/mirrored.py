"""``tf.distribute.MirroredStrategy``: N replicas in one process, on all GPUs or on logical CPU devices.

Synchronous data parallelism: g = (1/N) Σ g_i by all-reduce over the devices, every replica applies the same update.
Source: https://www.tensorflow.org/api_docs/python/tf/distribute/MirroredStrategy

Limits: one process, one host. On a CPU all replicas share one thread pool of N × cores-per-replica threads, so a
replica may use a core that another leaves idle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from .._shared.devices import gpus, replica_devices, skip_for_gpus
from .._shared.together import Together
from ..base import Place, Task, Traits, option
from ..trainer import Trainer, Workload
from ..transport import Exchange, Group, Transport, copies

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Mirrored(Together):
    """All replicas in one process."""

    name = "mirrored"
    summary = "tf.distribute.MirroredStrategy: one process, all-reduce between its devices"
    family = "tf.distribute"
    good_for = "the GPUs of one machine, in one process"
    synchronizes = True
    new_models = True
    traits = Traits("yes", "yes", "between devices, in one process", "N·(W + S) in one process", "the run ends")
    runs_own_steps = True
    transports = ("mirrored",)

    cross_device_ops: Literal["auto", "nccl", "hierarchical_copy", "reduction_to_one_device"] = option(
        "auto", "how gradients are reduced; auto is NCCL on GPUs, reduction to one device on CPUs"
    )

    def skip(self, replicas: int) -> str | None:
        """NCCL and hierarchical copy need GPUs; replicas need a GPU each where there are any."""
        if self.cross_device_ops in ("nccl", "hierarchical_copy") and not gpus():
            return f"cross_device_ops={self.cross_device_ops} needs GPUs and there are none; use auto"
        return skip_for_gpus(replicas)

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def reduced(self, accumulate: int = 1) -> float:
        """The gradients."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Each replica's gradients are copied to one device, and the sum, or the weights, back."""
        return copies(replicas).scaled(1 / accumulate)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker that computes all replicas."""
        return [Task(host=place.host(0), replicas=replicas)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Each replica has a copy of the weights."""
        from ._in_process import trainer_of

        trainer = trainer_of(self._over_devices(task, workload), workload, copies=task.replicas)
        yield self.in_calls(trainer)

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport]:
        """TensorFlow's all-reduce between devices, by itself."""
        from ._transport import DistributeTransport

        yield DistributeTransport(self._over_devices(task, group))

    def _over_devices(self, task: Task, group: Group) -> tf.distribute.MirroredStrategy:
        import tensorflow as tf

        from .._shared.threads import set_threads

        set_threads(task.replicas, group.cores_per_replica)
        return tf.distribute.MirroredStrategy(replica_devices(task.replicas), self._cross_device_ops())

    def _cross_device_ops(self) -> tf.distribute.CrossDeviceOps | None:
        import tensorflow as tf

        makers = {
            "nccl": tf.distribute.NcclAllReduce,
            "hierarchical_copy": tf.distribute.HierarchicalCopyAllReduce,
            "reduction_to_one_device": tf.distribute.ReductionToOneDevice,
        }
        return makers[self.cross_device_ops]() if self.cross_device_ops in makers else None
