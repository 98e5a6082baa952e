"""Legacy ps/worker training: ``tf.train.ClusterSpec``, ``tf.distribute.Server``, between-graph replication.

Asynchronous (default): a worker reads θ, computes g over its part of the global batch and pushes it; the server applies
θ ← θ − η·g at once, nobody waits. Synchronous (``sync=true``): the mean of all N gradients is applied once, then every
worker goes on. Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012; Li et al., *Scaling Distributed
Machine Learning with the Parameter Server*, OSDI 2014; Chen et al., *Revisiting Distributed Synchronous SGD*, 2016.

Limits: the gRPC servers listen on every interface and authenticate nobody. Asynchronous runs apply N updates where a
synchronous one applies one, so their weights depend on timing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from .base import Address, Server, Strategy, Task, Trainer, Traits, Workload, option, skip_for_gpus

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class ParameterServer(Strategy):
    """Parameter servers and workers as separate processes."""

    name = "ps"
    summary = "legacy parameter servers: ClusterSpec, workers push gradients, asynchronous or sync=true"
    needs = "one free TCP port a worker and a ps task"
    synchronous = False
    traits = Traits(
        "no; sync=true: yes", "no; sync=true: yes", "W each way", "W on workers, W + S over ps", "asynchronous: goes on"
    )

    ps: Annotated[int, Ge(1)] = option(1, "parameter servers; variables are spread over them by size")
    sync: bool = option(False, "wait for all N gradients before one update")
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port, ps tasks first; 0 takes free ones")

    def traffic_bytes(self, weights_bytes: int, replicas: int) -> float:
        """Each worker fetches the weights and pushes a gradient."""
        return 2.0 * replicas * weights_bytes

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas)

    def tasks(self, replicas: int, address: Address) -> list[Task]:
        """The ps tasks, then the workers; ``TF_CONFIG`` tells each of all."""
        total = self.ps + replicas
        addresses = [address(self.port + index if self.port else None) for index in range(total)]
        cluster = {"ps": addresses[: self.ps], "worker": addresses[self.ps :]}

        def environment(role: str, index: int) -> dict[str, str]:
            return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}

        return [
            Task("ps", index, first_replica=0, replicas=0, env=environment("ps", index)) for index in range(self.ps)
        ] + [Task("worker", index, first_replica=index, env=environment("worker", index)) for index in range(replicas)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """A ps task serves; a worker builds its graph against the ps tasks' variables."""
        import tensorflow as tf

        from ._ps_graph import Source
        from ._ps_worker import PsTrainer, session_config
        from ._replica import set_threads, use_gpu

        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cores = workload.cores_per_replica * (1 if task.role == "worker" else workload.replicas)
        if task.role == "worker":
            set_threads(1, cores)
            use_gpu(task.index)
        server = tf.distribute.Server(
            resolver.cluster_spec(), task.role, task.index, config=session_config(task, cores)
        )
        if task.role == "ps":
            yield Server()
            return
        source = Source.of(workload.model())
        with tf.Graph().as_default():
            config = session_config(task, cores)
            yield PsTrainer(task, workload, source, server.target, self.ps, self.sync, config)
