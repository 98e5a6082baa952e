"""Horovod: N processes started by ``horovodrun``, gradients averaged by all-reduce.

g = (1/N) Σ g_i over Gloo, MPI or NCCL, as Horovod was built; rank 0's initial weights are broadcast.
Source: Sergeev & Del Balso, *Horovod: fast and easy distributed deep learning in TensorFlow*, arXiv 1802.05799;
https://horovod.readthedocs.io/en/stable/tensorflow.html

Limits: upstream has no release for TensorFlow ≥ 2.16, so Horovod comes by ``stratbench install-horovod``.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from ._horovod_build import status
from .base import Address, Strategy, Task, Trainer, Traits, Workload, option, ring_bytes, skip_for_gpus

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Horovod(Strategy):
    """One process a replica, all-reduce by Horovod's background thread."""

    name = "horovod"
    summary = "Horovod: N processes under horovodrun, ring all-reduce of fused gradients"
    needs = "Horovod built for this TensorFlow (stratbench install-horovod)"
    traits = Traits("yes", "yes", "2(N−1)/N·W each way", "W + S", "the run ends")

    compression: Literal["none", "fp16"] = option("none", "fp16 sends gradients as half floats")
    fusion_mib: Annotated[float, Ge(0)] = option(128.0, "tensor fusion buffer in MiB; 0 turns fusion off")
    cycle_ms: Annotated[float, Gt(0)] = option(1.0, "how often the background thread looks for tensors, in ms")
    controller: Literal["auto", "gloo", "mpi"] = option("auto", "who coordinates; auto is MPI if built, else Gloo")

    def skip(self, replicas: int) -> str | None:
        """Horovod missing or built for another TensorFlow; a controller that was not built."""
        build = status()
        if build.problem:
            return build.problem
        if self.controller != "auto" and self.controller not in build.controllers:
            return f"this Horovod was built with {', '.join(build.controllers)}, not {self.controller}"
        return skip_for_gpus(replicas)

    def traffic_bytes(self, weights_bytes: int, replicas: int) -> float:
        """One ring all-reduce, of half as many bytes with fp16."""
        return ring_bytes(weights_bytes, replicas) * (0.5 if self.compression == "fp16" else 1.0)

    def tasks(self, replicas: int, address: Address) -> list[Task]:
        """One ``horovodrun`` that starts N workers; they learn their rank from it."""
        launcher = (_horovodrun(), "-np", str(replicas), "-H", f"localhost:{replicas}", "--disable-cache")
        return [
            Task(
                command=(*launcher, f"--{self._controller()}"),
                starts=replicas,
                exit_pattern=r"Process (?P<index>\d+) exit with status code (?P<code>\d+)",
            )
        ]

    def _controller(self) -> str:
        """Which one to use. Unless told, horovodrun loads TensorFlow once for each to find out what was built."""
        if self.controller != "auto":
            return self.controller
        return "mpi" if "mpi" in status().controllers else "gloo"

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Averages with one grouped all-reduce a step, inside the ``tf.function``."""
        import horovod.tensorflow as hvd

        from ..errors import RunError
        from ._replica import KerasTrainer, loss_and_gradients, set_threads, use_gpu

        set_threads(1, workload.cores_per_replica)
        # Read by init, and set here so that they hold in a job that somebody else's horovodrun started.
        os.environ["HOROVOD_FUSION_THRESHOLD"] = str(int(self.fusion_mib * 2**20))
        os.environ["HOROVOD_CYCLE_TIME"] = str(self.cycle_ms)
        hvd.init()
        try:
            if hvd.size() != workload.replicas:
                raise RunError(
                    f"Horovod's job must have as many processes as replicas. Received: {hvd.size()} processes "
                    f"for {workload.replicas} replicas. Start it with horovodrun -np {workload.replicas}."
                )
            use_gpu(hvd.local_rank())
            model, optimizer = workload.model(), workload.optimizer()
            optimizer.build(model.trainable_variables)
            # Horovod knows tf.Variable, not Keras 3's wrapper around it.
            hvd.broadcast_variables([v.value for v in model.variables + optimizer.variables], root_rank=0)
            compression = getattr(hvd.Compression, self.compression)

            def body(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
                loss, gradients = loss_and_gradients(workload, model, x, y)
                small, contexts = zip(*map(compression.compress, gradients), strict=True)
                means = hvd.grouped_allreduce(list(small), op=hvd.Average)
                means = list(map(compression.decompress, means, contexts))
                optimizer.apply(means, model.trainable_variables)
                return loss

            yield KerasTrainer(model, optimizer, body, rank=hvd.rank(), shards=hvd.size())
        finally:
            hvd.shutdown()


def _horovodrun() -> str:
    beside = Path(sys.executable).with_name("horovodrun")
    return str(beside) if beside.exists() else shutil.which("horovodrun") or "horovodrun"
