"""``tf.distribute.ParameterServerStrategy``: a coordinator gives functions to remote workers; ps tasks hold weights.

Worker 0 is the coordinator. It cuts the global batch into N parts and schedules one function for each. Whichever remote
worker is idle takes the next one: it fetches θ, and computes g_i.

- ``mode=async``: it updates θ on the servers at once, θ ← θ − η·g_i.
- ``mode=sync``: it leaves g_i on the servers; when all N are there, one more function does θ ← θ − η·(1/N) Σ g_i.

When a remote worker dies, the coordinator gives its function to another one. A function that died after its update has
updated twice then in ``mode=async``; in ``mode=sync`` it only leaves its gradient anew.
Source: https://www.tensorflow.org/tutorials/distribute/parameter_server_training; Li et al., *Scaling Distributed
Machine Learning with the Parameter Server*, OSDI 2014.

Limits: the coordinator waits for all functions of a global batch before it schedules those of the next. It sends the
batches. The update is computed by a remote worker, not where the weights are, so it moves weights and optimizer state,
too. Keras 3's ``fit`` does not train so (https://github.com/keras-team/keras/issues/18624). The gRPC servers listen on
every interface, without authentication.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from .._shared.devices import skip_for_gpus
from .._shared.remote import REMOTE, others_do_its_work
from ..base import Place, Reaction, Strategy, Task, Traits, option
from ..trainer import Server, Trainer, Workload
from ..transport import Exchange


@dataclasses.dataclass(frozen=True)
class TfParameterServer(Strategy):
    """A coordinator, ps tasks, and one remote worker a replica."""

    name = "parameter-server"
    summary = "tf.distribute.ParameterServerStrategy: a ClusterCoordinator schedules functions on remote workers"
    family = "tf.distribute"
    good_for = "workers that come and go, with TensorFlow's own coordinator"
    needs = "one free TCP port a task"
    synchronous = False
    delays_parts = True
    new_models = True
    traits = Traits(
        synchronous="async: within a global batch; sync: yes",
        consistent="only mode=sync",
        traffic="W each way",
        memory="W in transit; W + S over the ps tasks, with sync N W more",
        failure="the others go on",
    )

    mode: Literal["async", "sync"] = option("async", "whether each gradient updates at once, or their mean does")
    ps: Annotated[int, Ge(1), Le(4096)] = option(1, "parameter servers, over which variables are dealt in turn")
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port; 0 takes free ones")

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas)

    def reduced(self, accumulate: int = 1) -> float:
        """Weights out, gradients in."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Each ps task sends its part of the weights to each worker, and receives as much."""
        return Exchange(2.0, 2.0 * replicas / self.ps)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Each global batch ends with an update."""
        if accumulate == 1:
            return None
        return "parameter-server updates in each step; leave --accumulate out, or use ps with sync=true"

    def skip_normaliser(self) -> str | None:
        """Scheduled functions can't exchange anything."""
        return "the functions of parameter-server can't form a mean over all replicas; use ps with sync=true"

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """The coordinator gives the functions of a remote worker to the others."""
        return others_do_its_work(task, left)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The ps tasks, the remote workers, then worker 0, which drives them."""
        hosts = [place.host(0)] * self.ps + [place.host(index) for index in range(replicas)] + [place.host(0)]
        addresses = [place.address(host, self.port + i if self.port else None) for i, host in enumerate(hosts)]
        cluster = {"ps": addresses[: self.ps], "worker": addresses[self.ps : -1], "chief": addresses[-1:]}

        def task(role: str, job: str, index: int, host: str, **settings: Any) -> Task:
            config = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
            return Task(role, index, host, env={"TF_CONFIG": config}, **settings)

        return [
            *(task("ps", "ps", index, host, replicas=0) for index, host in enumerate(hosts[: self.ps])),
            *(
                task(REMOTE, "worker", index, host, first_replica=index)
                for index, host in enumerate(hosts[self.ps : -1])
            ),
            task("worker", "chief", 0, hosts[-1], replicas=0),
        ]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """Worker 0 schedules; the others serve."""
        from ._coordinator import CoordinatorTrainer, serving

        if task.role == "worker":
            yield CoordinatorTrainer(workload, self.mode == "sync")
        else:
            yield serving(task, workload)
