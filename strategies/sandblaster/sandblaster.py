"""Sandblaster L-BFGS: a coordinator commands parameter shards, and workers take portions of a batch as they fall idle.

The K ps tasks hold an equal part each of the weights θ, of the gradient, and of the history. Worker 0, the coordinator,
holds none: it tells the shards to form dot products and sums, and decides by their numbers. For a loss and its gradient
at θ it gives the remote workers portions of the global batch, much smaller than 1/N of it. A worker fetches θ once for
each place where a loss is wanted, and leaves every portion's gradient on the shards. When no portion is left, one that
takes longer than usual is given to a second worker, and the first answer counts.

- ``update=lbfgs``: one iteration of L-BFGS a step, with its line search, on the step's global batch: ``_lbfgs.py``.
  It takes the place of ``--optimizer``, learning rate and schedule.
- ``update=optimizer``: one gradient a step, and the update of ``--optimizer`` on the shards.

A portion is as large as another; gradients are added up in the order of the portions. So who computed which portion
changes no weight.
Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012, section 4.2 and its appendix.

Limits: the coordinator sends the examples, once to each worker that computes with them. Layers that normalise by the
batch use a portion's statistics, and keep those of the first one. The paper's workers send the sum of a few portions'
gradients; here each is sent. Connections are TCP, neither encrypted nor authenticated; they listen at the tasks' own
addresses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from .._shared.devices import skip_for_gpus
from .._shared.messages import PEERS_VARIABLE, connected
from .._shared.remote import REMOTE, others_do_its_work
from .._shared.whole_weights import skip_constraints, skip_optimizers
from ..base import Place, Reaction, Strategy, Task, Traits, option
from ..trainer import Server, Trainer, Workload

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Sandblaster(Strategy):
    """A coordinator, ps tasks, and one remote worker a replica."""

    name = "sandblaster"
    summary = "Sandblaster L-BFGS: parameter shards that a coordinator commands; portions for workers that fall idle"
    family = "data parallel"
    good_for = "large batches, and workers of unlike speed"
    needs = "one free TCP port a task"
    synchronous = False
    uneven = True
    delays_parts = True
    new_models = True
    traits = Traits(
        synchronous="yes",
        consistent="yes",
        traffic="a gradient: W in, portions·W out",
        memory="W and a gradient; (5 + 2·history)·W over the ps tasks",
        failure="the others go on",
    )

    update: Literal["lbfgs", "optimizer"] = option("lbfgs", "L-BFGS, or the run's optimizer")
    history: Annotated[int, Ge(0), Le(1000)] = option(10, "pairs of steps and changes of the gradient that are kept")
    portions: Annotated[int, Ge(1), Le(4096)] = option(
        8, "portions of a batch for each worker, if all are equally fast"
    )
    backup: bool = option(True, "give portions that take long to a second worker")
    ps: Annotated[int, Ge(1), Le(4096)] = option(1, "parameter shards")
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port; 0 takes free ones")

    def __post_init__(self) -> None:
        """With the run's optimizer it gives one replica's weights."""
        object.__setattr__(self, "synchronous", self.update == "optimizer")

    @property
    def own_optimizer(self) -> str:
        """L-BFGS, unless the run's own does it."""
        return f"L-BFGS, history {self.history}" if self.update == "lbfgs" else ""

    def divides(self, replicas: int) -> bool:
        """Each portion has a loss of its own."""
        return replicas * self.portions > 1

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Each global batch ends with an update, of vectors that know of no single weights."""
        if accumulate > 1:
            return "sandblaster updates in each step; leave --accumulate out, or take a larger global batch"
        if self.update == "lbfgs":
            return None
        if settings.get("clipnorm") or settings.get("global_clipnorm"):
            return "the shards of sandblaster clip by value only; leave clipping by norm out, or use ps with sync=true"
        return skip_optimizers(settings)

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """Constraints are of whole weights."""
        return skip_constraints(model)

    def skip_normaliser(self) -> str | None:
        """Portions can't exchange anything."""
        return "the portions of sandblaster can't form a mean over all of them; use ps with sync=true"

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """The coordinator gives the portions of a remote worker to the others."""
        return others_do_its_work(task, left)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The coordinator, the shards, and the remote workers, each with the addresses of all."""
        hosts = [place.host(0)] * (1 + self.ps) + [place.host(index) for index in range(replicas)]
        addresses = [place.address(host, self.port + i if self.port else None) for i, host in enumerate(hosts)]
        env = {PEERS_VARIABLE: ",".join(addresses)}
        return [
            *(Task("ps", index, hosts[1 + index], replicas=0, env=env) for index in range(self.ps)),
            *(
                Task(REMOTE, index, hosts[1 + self.ps + index], first_replica=index, env=env)
                for index in range(replicas)
            ),
            Task("worker", 0, hosts[0], replicas=0, env=env),
        ]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """Worker 0 is the coordinator; the others serve it."""
        from ._coordinator import SandblasterTrainer
        from ._serving import remote, shard

        servers = range(1, 1 + self.ps)
        remotes = range(1 + self.ps, 1 + self.ps + workload.replicas)
        labels = ["worker-0", *(f"ps-{i}" for i in range(self.ps)), *(f"{REMOTE}-{i}" for i in range(len(remotes)))]
        with connected(labels.index(task.label), labels=labels) as messages:
            if task.role == "ps":
                yield shard(task, workload, messages)
            elif task.role == REMOTE:
                yield remote(task, workload, messages, servers)
            else:
                history = self.history if self.update == "lbfgs" else None
                settings = (self.portions, self.backup, history)
                with SandblasterTrainer(workload, messages, servers, remotes, *settings) as trainer:
                    yield trainer
