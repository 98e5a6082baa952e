"""Legacy ps/worker training: ``tf.train.ClusterSpec``, ``tf.distribute.Server``, between-graph replication.

A worker reads θ, computes g over its part of the global batch and pushes it. ``mode`` says what the servers do with it:

- ``async``: θ ← θ − η·g at once, no worker waits (Recht et al., *Hogwild!*, NIPS 2011; ``lock=true``: one at a time).
- ``sync``: bulk-synchronous; once all N gradients of a step are there, θ ← θ − η·(1/N) Σ g_i. With ``backup=k`` once
  the first N − k are there; later ones are dropped and counted (Chen et al., *Revisiting Distributed Synchronous SGD*,
  2016; Li et al., *Scaling Distributed Machine Learning with the Parameter Server*, OSDI 2014).
- ``ssp``: as async, but a worker at clock c goes on only while c − min(clocks) ≤ ``staleness``; 0 is ``sync``
  (Ho et al., *More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server*, NIPS 2013).
- ``downpour``: a worker fetches θ every ``fetch`` steps and pushes the sum of its gradients every ``push`` steps; in
  between it updates its own copy by its own gradients. ``overlap=true``: fetching, computing and pushing are three
  loops that do not wait for one another. ``warm_start``: worker 0 alone takes so many steps first. ``parts=P``: the
  layers of each worker's model are cut over P tasks, as by `model-parallel`, so N replicas make N/P workers. Adagrad on
  the servers is ``--optimizer adagrad`` (Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012).

When a worker dies, async and downpour continue without it, and sync continues without up to ``backup`` workers.
``restart=true`` starts it again. ``checkpoint_every=k``: the first remaining worker saves what the servers hold. A ps
task that dies is started again from there.

With several ps tasks, each holds an equal part of the weights: see `_shards`. Of large embedding tables, async, ssp and
sync fetch and push only the rows that a batch looks up (Li et al., above).

Limits: the gRPC servers listen on every interface, without authentication. Only mode=sync applies one update for each
global batch. The other modes apply one for each worker, at the same learning rate, and their weights depend on timing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from ...errors import UsageError
from .._shared.devices import skip_for_gpus
from ..base import Place, Reaction, Strategy, Task, Traits, option
from ..cut._cut_model import skip_uncut
from ..trainer import Server, Trainer, Workload
from ..transport import Exchange, Group, Transport
from ._tasks import PART, ps_tasks

if TYPE_CHECKING:
    import keras

_ONLY = {
    "backup": "sync",
    "staleness": "ssp",
    "fetch": "downpour",
    "push": "downpour",
    "warm_start": "downpour",
    "overlap": "downpour",
    "parts": "downpour",
    "restart": "async",
    "checkpoint_every": "async",
}


@dataclasses.dataclass(frozen=True)
class ParameterServer(Strategy):
    """Parameter servers and workers as separate processes."""

    name = "ps"
    summary = "parameter servers: ClusterSpec, workers push gradients; asynchronous, sync, ssp or downpour"
    family = "relaxed"
    good_for = "workers of unlike speed, and large embedding tables"
    needs = "one free TCP port a worker and a ps task"
    synchronous = False
    transports = ("ps",)
    traits = Traits(
        synchronous="async, downpour: no; ssp: up to s steps; sync: yes",
        consistent="only mode=sync",
        traffic="W each way; downpour: W/n_fetch in, W/n_push out",
        memory="W in transit; W + S over the ps tasks; with backup N W more",
        failure="async, downpour: others go on; sync: up to backup may die; ssp, parts: ends",
    )

    ps: Annotated[int, Ge(1), Le(4096)] = option(1, "parameter servers, each with an equal part of the weights")
    mode: Literal["async", "sync", "ssp", "downpour"] = option("async", "when the servers apply what workers push")
    sync: bool = option(False, "short for mode=sync")
    lock: bool = option(False, "async, ssp, downpour: fetch and update all weights in one go, one worker at a time")
    backup: Annotated[int, Ge(0)] = option(0, "sync: a step ends without the last so many gradients")
    staleness: Annotated[int, Ge(0)] | Literal["inf"] = option(0, "ssp: steps a worker may be ahead of the slowest")
    fetch: Annotated[int, Ge(1)] = option(1, "downpour: steps between fetches of the weights")
    push: Annotated[int, Ge(1)] = option(1, "downpour: steps between pushes of the summed gradients")
    warm_start: Annotated[int, Ge(0)] = option(0, "downpour: steps of worker 0 before the others begin")
    overlap: bool = option(False, "downpour: fetches and pushes go on beside the steps")
    parts: Annotated[int, Ge(1), Le(4096)] = option(1, "downpour: tasks over which the layers of each worker are cut")
    restart: bool = option(False, "async: a worker that died is started again")
    checkpoint_every: Annotated[int, Ge(0)] = option(
        0, "async: steps of a worker between checkpoints, from which a ps task that died comes back; 0 for none"
    )
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port, ps tasks first; 0 takes free ones")

    def __post_init__(self) -> None:
        """Raises UsageError for options that go with another mode."""
        if self.sync and self.mode not in ("async", "sync"):
            raise UsageError(f"ps takes sync=true or mode={self.mode}, not both.")
        for field in dataclasses.fields(self):
            mode = _ONLY.get(field.name)
            if mode and mode != self._mode and getattr(self, field.name) != field.default:
                raise UsageError(f"option {field.name} of strategy ps is for mode={mode}. Received: mode={self._mode}.")
        if self.lock and self._rule == "sync":
            raise UsageError("option lock of strategy ps is for mode=async, ssp or downpour: sync updates once a step.")
        if self.parts > 1:
            for name in ("fixed_batch", "delays_parts", "new_models", "tries_models"):
                object.__setattr__(self, name, True)

    @property
    def _mode(self) -> str:
        return "sync" if self.sync else self.mode

    @property
    def _rule(self) -> str:
        """The mode; sync where no worker may be ahead."""
        return "sync" if self.mode == "ssp" and not self.staleness else self._mode

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each worker fetches the weights and pushes a gradient, or a sum of some."""
        return replicas // self.parts * weights_bytes * (1 / self.fetch + 1 / self.push / accumulate)

    def reduced(self, accumulate: int = 1) -> float:
        """A push and a fetch are one. Of parts, each task sends its own."""
        if self.parts > 1:
            return 0.0
        return (1 / self.fetch + 1 / self.push / accumulate) / 2

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Each ps task sends its part of the weights to each worker, and receives as much."""
        if self.parts > 1:
            return None
        share = 1 / self.fetch + 1 / self.push / accumulate
        waits = self._rule in ("sync", "ssp")
        return Exchange(1.0, replicas / self.ps, waits=waits, hides=self.overlap).scaled(share)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Accumulation needs weights that stay the same between two updates."""
        if accumulate == 1 or (self._rule == "sync" and not self.backup):
            return None
        if self._rule == "sync":
            return "backup workers may come late with gradients of an earlier update; leave --accumulate or backup out"
        return "weights change within the steps of --accumulate; use sync=true, or mode=downpour,push=K without it"

    def skip_normaliser(self) -> str | None:
        """A step that does not wait for all workers has no mean of all."""
        if self.backup:
            return "backup workers leave no mean over all; leave backup out"
        return None

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any; a step must wait for one gradient at least."""
        if self.backup >= replicas:
            return f"backup={self.backup} leaves none of {replicas} gradients to wait for; ask for less"
        if replicas % self.parts:
            return f"{replicas} replicas can't be divided into workers of {self.parts} parts; ask for a multiple of it"
        return skip_for_gpus(replicas)

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """One that can't be cut into so many parts."""
        return skip_uncut(model, self.parts) if self.parts > 1 else None

    def divides(self, replicas: int) -> bool:
        """Among workers; parts share one loss."""
        return replicas > self.parts

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """A ps task is restarted if there are checkpoints. A worker is restarted, or the others continue without it."""
        if self.parts > 1:
            return Reaction.END
        workers, had = ([each for each in tasks if each.role == "worker"] for tasks in (left, everyone))
        if task.role == "ps":
            # A worker must restore the weights: a remaining one, or one that died at the same time and is restarted.
            mends = self.checkpoint_every and (self.restart or workers)
            return Reaction.RESTART if mends else Reaction.END
        if self.restart:
            return Reaction.RESTART
        if not workers:
            return Reaction.END
        if self._rule in ("async", "downpour") and not self.warm_start:
            return Reaction.GO_ON
        # With backup workers, a step does not wait for its last gradients, so it does not wait for those of a dead
        # worker. Worker 0 is needed: it sets the learning rate of all, or does the warm start.
        spare = len(had) if self.warm_start else self.backup
        return Reaction.GO_ON if task.index and len(had) - len(workers) <= spare else Reaction.END

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The ps tasks, then the workers; ``TF_CONFIG`` tells each of all."""
        return ps_tasks(self.ps, replicas // self.parts, self.port, place, self.parts)

    def skip_transport(self) -> str | None:
        """What is no sum of all."""
        others = [f.name for f in dataclasses.fields(self) if f.name not in ("ps", "port", "mode", "sync")]
        given = [name for name in others if getattr(self, name) != getattr(type(self), name)]
        if given or self._mode not in ("async", "sync"):
            return f"stratbench allreduce measures sums over all processes; leave {', '.join(given) or 'mode'} out"
        return None

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport | Server]:
        """Push and pull by themselves; all workers wait for all, whatever the mode."""
        from ._session import start
        from ._transport import PsTransport

        member = start(task, group)
        yield Server() if task.role == "ps" else PsTransport(member, group.replicas, self.ps)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """A ps task serves, as does a part; a worker builds its graph against the ps tasks' variables."""
        import tensorflow as tf

        from ._async import AsyncTrainer
        from ._backup import meet
        from ._downpour import DownpourTrainer
        from ._session import join, start
        from ._sync import SyncTrainer, update_forever
        from ._weights import share

        if task.role == PART:
            from ..cut._cluster import PartServer

            start(task, workload)
            yield PartServer(task, workload, slow=bool(workload.delays))
            return
        # A lock holds whole weights, and late gradients need a place to wait, so both exchange all rows.
        by_rows = not self.lock and not self.backup and self._rule != "downpour"
        with join(task, workload, self.ps, by_rows) as node, tf.device(node.device):
            if task.role == "worker" and self._rule == "downpour":
                loops = (self.fetch, self.push, self.warm_start, self.overlap, self.parts)
                yield DownpourTrainer(node, workload, self.lock, *loops)
                return
            if task.role == "worker" and self._rule != "sync":
                yield AsyncTrainer(node, workload, self.lock, self._bound(workload), self.checkpoint_every)
                return
            shared = share(workload, node.source)
            if self._rule != "sync":
                yield node.server(shared.weights, None)
                return
            barrier = meet(workload, shared, self.backup)
            if task.role == "worker":
                yield SyncTrainer(node, workload, shared, barrier, shared.weights)
            else:
                loop = update_forever(barrier, shared) if task.index == 0 else None
                yield node.server(shared.weights, loop)

    def _bound(self, workload: Workload) -> int | None:
        """In steps; None where no clocks are kept."""
        if self.mode != "ssp":
            return None
        return workload.total_steps if self.staleness == "inf" else self.staleness
