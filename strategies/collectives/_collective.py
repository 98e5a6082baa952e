"""Shared by the strategies whose N processes exchange tensors by Horovod's collectives.

Source: Sergeev & Del Balso, *Horovod: fast and easy distributed deep learning in TensorFlow*, arXiv 1802.05799;
https://horovod.readthedocs.io/en/stable/tensorflow.html

Limits: upstream has no release for TensorFlow ≥ 2.16, so Horovod comes by ``stratbench install-horovod``.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt

from ...errors import RunError
from .._shared.devices import skip_for_gpus
from ..base import Place, Strategy, Task, option
from ..trainer import Batch, Mean, Recorder, Workload
from ..transport import Group
from . import _mpi
from ._build import status
from ._ranks import meeting, variables

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


_ENDS = (
    r"Process (?P<index>\d+) exit with status code (?P<code>\d+)",
    r"process rank (?P<index>\d+) with PID \d+ on node \S+ exited on\s+signal (?P<signal>\d+)",
    r"Process name: \[\S+,(?P<index>\d+)\]\s+Exit code: +(?P<code>\d+)",
)
"""What horovodrun prints with Gloo when a worker ends, and the mpirun of Open MPI 4 and 5 when the first one ends."""


def bucket_option(done: str) -> Any:
    """The option that says what `stratbench.strategies._shared.buckets` puts into one bucket."""
    return option(
        0.25, f"gradients are {done} when so many MiB are computed; 0: each by itself; all: after the backward pass"
    )


@dataclasses.dataclass(frozen=True)
class Collective(Strategy):
    """One process a replica. Horovod's background thread exchanges their tensors."""

    joins_jobs = True

    needs = "Horovod built for this TensorFlow (stratbench install-horovod)"

    controller: Literal["auto", "gloo", "mpi"] = option(
        "auto", "what coordinates, and reduces on CPUs; auto is Gloo if built, else MPI"
    )
    launcher: Literal["auto", "horovodrun"] = option(
        "auto", "what starts the processes; auto is stratbench itself with Gloo and Open MPI, horovodrun with other MPI"
    )
    cycle_ms: Annotated[float, Gt(0)] | Literal["auto"] = option(
        "auto", "how long the background thread sleeps at most; auto is 5 ms where tensors wake it (Gloo), else 1"
    )

    def skip(self, replicas: int) -> str | None:
        """Horovod missing or built for another TensorFlow; a controller that was not built."""
        build = status()
        if build.problem:
            return build.problem
        if self.controller != "auto" and self.controller not in build.controllers:
            return f"this Horovod was built with {', '.join(build.controllers)}, not {self.controller}"
        return skip_for_gpus(replicas)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """N workers, or one ``horovodrun`` that starts them and tells them their ranks."""
        if self._starts_ranks():
            hosts = [place.host(rank) for rank in range(replicas)]
            mpi = self._controller() == "mpi"
            environments = _mpi.variables(replicas) if mpi else variables(hosts, place.address(hosts[0]))
            return [
                Task(index=rank, host=host, first_replica=rank, env=env)
                for rank, (host, env) in enumerate(zip(hosts, environments, strict=True))
            ]
        launcher = (_horovodrun(), "-np", str(replicas), *self._hosts(replicas), "--disable-cache")
        mpi_flags = ("--mpi", f"--binding-args={' '.join(_mpi.BINDING)}")
        controller = mpi_flags if self._controller() == "mpi" else ("--gloo",)
        return [Task(command=(*launcher, *controller), starts=replicas, exit_patterns=_ENDS)]

    def _starts_ranks(self) -> bool:
        """Whether stratbench's own launcher starts the processes."""
        return self.launcher == "auto" and (self._controller() == "gloo" or _mpi.open_mpi())

    def _hosts(self, replicas: int) -> tuple[str, ...]:
        """Where ``horovodrun`` is to start them."""
        return ("-H", f"localhost:{replicas}")

    def environment(self) -> dict[str, str]:
        """Horovod's own variables, as the options say."""
        woken = status().wakes and by_gloo()
        return {"HOROVOD_CYCLE_TIME": str((5.0 if woken else 1.0) if self.cycle_ms == "auto" else self.cycle_ms)}

    @contextmanager
    def joined(self, workload: Group, exchanges: bool = False) -> Iterator[ModuleType]:
        """``horovod.tensorflow``, initialised with all processes; shut down at the end.

        Args:
            exchanges: see `set_threads`.

        Raises RunError if the job that this process is in has not one process a replica.
        """
        import horovod.tensorflow as hvd

        from .._shared.replica import use_gpu
        from .._shared.threads import set_threads

        set_threads(1, workload.cores_per_replica, exchanges)
        # Horovod reads these in init. Set here, they also hold in a job that the user's own horovodrun started.
        os.environ.update(self.environment())
        with meeting(), _mpi.ranked():
            hvd.init()
            try:
                if hvd.size() != workload.replicas:
                    raise RunError(
                        f"Horovod's job must have as many processes as replicas. Received: {hvd.size()} processes "
                        f"for {workload.replicas} replicas. Start it with horovodrun -np {workload.replicas}."
                    )
                use_gpu(hvd.local_rank())
                yield hvd
            finally:
                hvd.shutdown()

    def recorders(self) -> Sequence[Recorder]:
        """Horovod's timeline. It has to know in ``hvd.init`` that there may be one."""
        os.environ["HOROVOD_TIMELINE"] = "DYNAMIC"
        return [Timeline()]

    def _controller(self) -> str:
        """The one to use. Neither is always the faster one: see docs/performance.md."""
        if self.controller != "auto":
            return self.controller
        return "gloo" if "gloo" in status().controllers else "mpi"


def by_gloo() -> bool:
    """Whether Gloo coordinates the job that this process is in. A user's own job may have another `controller`."""
    return status().controllers == ("gloo",) or os.environ.get("HOROVOD_CONTROLLER", "").lower() == "gloo"


class Timeline:
    """Horovod's timeline, for ``chrome://tracing`` or Perfetto. Rank 0 writes that of all ranks.

    Source: ``horovod.tensorflow.start_timeline``.
    """

    def start(self, folder: Path) -> None:
        """Record from now on."""
        import horovod.tensorflow as hvd

        hvd.start_timeline(str(folder / "horovod-timeline.json"))

    def stop(self) -> None:
        """Complete the file."""
        import horovod.tensorflow as hvd

        hvd.stop_timeline()


def replicate(hvd: ModuleType, workload: Workload) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """The workload's model, with rank 0's weights on every rank, and its optimizer, built."""
    model, optimizer = workload.model(), workload.optimizer()
    optimizer.build(model.trainable_variables)
    broadcast(hvd, model.variables + optimizer.variables)
    return model, optimizer


def broadcast(hvd: ModuleType, variables: Sequence[keras.Variable], root: int = 0) -> None:
    """Give every rank the values of the variables of rank ``root``.

    Horovod's own ``broadcast_variables`` has AutoGraph write its code to a temporary file, which stays after a kill.
    """
    for variable in variables:
        variable.assign(hvd.broadcast(variable.value.read_value(), root_rank=root))


def barrier(hvd: ModuleType) -> None:
    """Returns when all ranks have called it. Horovod for TensorFlow has none of its own."""
    import tensorflow as tf

    hvd.allreduce(tf.zeros(()), name="barrier").numpy()


def mean_over_ranks(hvd: ModuleType) -> Mean:
    """For one step. Its names are those of the other ranks, whose graphs may be different ones after the loss."""
    numbers = itertools.count()

    def mean(value: tf.Tensor) -> tf.Tensor:
        return hvd.allreduce(value, op=hvd.Average, name=f"mean_{next(numbers)}", ignore_name_scope=True)

    return mean


def weighted_gradients(
    hvd: ModuleType,
    workload: Workload,
    model: keras.Model,
    batch: Batch,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Mean loss, and this process's part of the mean over all: n_i·g_i for each trained weight, and n_i.

    Without examples everything is 0, and the model does not run: its moving statistics would become NaN.
    """
    import tensorflow as tf

    from .._shared.replica import loss_and_gradients

    variables = [variable.value for variable in model.trainable_variables]
    examples = tf.nest.flatten(batch)[0]
    count = tf.cast(tf.shape(examples)[0], variables[0].dtype)

    def some() -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss, gradients = loss_and_gradients(workload, model, batch, optimizer, mean=mean_over_ranks(hvd))
        return loss, [gradient * count for gradient in gradients]

    def none() -> tuple[tf.Tensor, list[tf.Tensor]]:
        return tf.zeros_like(count), list(map(tf.zeros_like, variables))

    # A condition gives all gradients at the same time. Where there are always examples, each can be sent at once.
    loss, gradients = some() if examples.shape[0] else tf.cond(count > 0, some, none)
    return loss, gradients, count


def like_weighted(trained: Sequence[keras.Variable]) -> list[tf.Tensor | tf.Variable]:
    """In the shapes and types of what `weighted_gradients` gives: the sums, and the count."""
    import tensorflow as tf

    variables = [variable.value for variable in trained]
    return [*variables, tf.zeros((), variables[0].dtype)]


def weights_with(
    model: keras.Model, variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]
) -> list[np.ndarray | None]:
    """In the order of ``model.weights``, these values in place of those of some variables."""
    given = {variable.ref(): value for variable, value in zip(variables, values, strict=True)}
    return [given.get(weight.value.ref(), weight.value).numpy() for weight in model.weights]


def _horovodrun() -> str:
    beside = Path(sys.executable).with_name("horovodrun")
    return str(beside) if beside.exists() else shutil.which("horovodrun") or "horovodrun"
