"""``tf.distribute.TPUStrategy``: one process, a copy of the model on each core of a TPU.

g = (1/N) Σ gᵢ by the all-reduce of the TPU's own network; XLA compiles the whole step.
Source: https://www.tensorflow.org/guide/tpu and ``TPUStrategy`` of its API.

On a TPU VM, the TPU is found by its device files. Elsewhere, ``tpu=`` or the variable ``TPU_NAME`` names it.
The number of replicas is that of its cores.

Limits: never run on a TPU by its developers, who have none.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen

from ...errors import RunError
from ..base import Place, Strategy, Task, Traits, option
from ..trainer import Trainer, Workload

_LOCAL = "local"
"""What TensorFlow calls the TPU of this machine."""


@dataclasses.dataclass(frozen=True)
class Tpu(Strategy):
    """One process drives all cores."""

    name = "tpu"
    summary = "tf.distribute.TPUStrategy: one process, all-reduce between the cores of a TPU"
    family = "tf.distribute"
    good_for = "Google's TPUs"
    needs = "a TPU, and a TensorFlow that is built for it"
    synchronizes = True
    new_models = True
    traits = Traits("yes", "yes", "between devices, in one process", "W + S a core", "the run ends")

    tpu: Annotated[str, MaxLen(4096)] = option(
        "", "its name or address; by default that of TPU_NAME, or the TPU of this machine"
    )

    @property
    def _tpu(self) -> str:
        """Empty if there is none."""
        here = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
        return self.tpu or os.environ.get("TPU_NAME", "") or (_LOCAL if here else "")

    def skip(self, replicas: int) -> str | None:
        """Without a TPU."""
        if self._tpu:
            return None
        return "no TPU: this machine has none, and neither option tpu nor TPU_NAME names one"

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker for all replicas."""
        return [Task(host=place.host(0), replicas=replicas)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Raises RunError if there are other cores than replicas, or none."""
        import tensorflow as tf

        from ._in_process import trainer_of

        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=self._tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            strategy = tf.distribute.TPUStrategy(resolver)
        except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            words = str(error).strip().partition("\n")[0]
            raise RunError(f"TensorFlow can't use TPU {self._tpu}: {words}") from error
        cores = strategy.num_replicas_in_sync
        if cores != workload.replicas:
            raise RunError(f"TPU {self._tpu} has {cores} cores, each of which is a replica; use -n {cores}")
        yield trainer_of(strategy, workload, copies=cores)
