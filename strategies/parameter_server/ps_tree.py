"""A tree of parameter servers: workers push to a leaf, leaves combine what they get and push it to the root.

A server with n workers below it forms the mean of what its members push, weighted by the workers below each, and pushes
it to the server above. ``mode=sync``: the root applies (1/N) Σ g_i once all have pushed. ``mode=async``: the root
applies what a server below it pushes at once, and these do not wait for one another. After an update each server takes
θ from the one above, and workers read it at their leaf. ``depth`` is the number of levels, ``ps`` the number of tasks
over which the root's weights are dealt.
Source: Mai et al., *Optimizing Network Performance in Distributed Machine Learning*, HotCloud 2015;
Hsieh et al., *Gaia*, NSDI 2017.

Limits: the gRPC servers listen on every interface, without authentication.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

from annotated_types import Ge, Le

from .._shared.devices import skip_for_gpus
from ..base import Place, Strategy, Task, Traits, option
from ..trainer import Server, Trainer, Workload
from ._tasks import ps_tasks


@dataclasses.dataclass(frozen=True)
class Node:
    """A server below the root.

    Attributes:
        above: the ps task of the server above it; None for the root.
        members: its workers, or the ps tasks of the servers below it.
        workers: how many there are below it.
    """

    above: int | None
    members: list[int]
    workers: int


@dataclasses.dataclass(frozen=True)
class ParameterServerTree(Strategy):
    """Of the ps tasks, the first are the root. Those of the levels below follow, the leaves last."""

    name = "ps-tree"
    summary = "parameter servers in a tree: leaves combine their workers' gradients and push them to the root"
    family = "data parallel"
    good_for = "many workers: the root receives one gradient a leaf"
    needs = "one free TCP port a worker, a leaf and the root"
    traits = Traits(
        synchronous="yes; mode=async: below a server",
        consistent="yes; mode=async: below a server",
        traffic="W each way; a server W more to the one above and back",
        memory="W in transit; servers W, root W + S",
        failure="the run ends",
    )

    fanout: Annotated[int, Ge(1)] = option(2, "workers of a leaf, and servers below one of the levels between")
    depth: Annotated[int, Ge(2), Le(32)] = option(2, "levels of servers, the root and the leaves included")
    ps: Annotated[int, Ge(1), Le(4096)] = option(1, "tasks of the root, each with an equal part of its weights")
    mode: Literal["sync", "async"] = option("sync", "whether the root waits for all servers below it")
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port, root first, then leaves; 0 takes free ones")

    def nodes(self, replicas: int) -> dict[int, Node]:
        """The servers below the root, by their ps tasks, leaves first."""
        levels = [_groups(range(replicas), self.fanout)]
        while len(levels) < self.depth - 1:
            levels.append(_groups(range(len(levels[-1])), self.fanout))
        firsts = [self.ps + sum(map(len, levels[level + 1 :])) for level in range(len(levels))]
        found: dict[int, Node] = {}
        for level, groups in enumerate(levels):
            for place, members in enumerate(groups):
                above = firsts[level + 1] + place // self.fanout if level + 1 < len(levels) else None
                tasks = [firsts[level - 1] + member for member in members] if level else members
                workers = sum(found[task].workers for task in tasks) if level else len(members)
                found[firsts[level] + place] = Node(above, tasks, workers)
        return found

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each worker fetches the weights from its leaf in each step, and pushes a gradient to it for each update."""
        return replicas * weights_bytes * (1 + 1 / accumulate)

    def reduced(self, accumulate: int = 1) -> float:
        """A push and a fetch are one."""
        return (1 + 1 / accumulate) / 2

    def skip(self, replicas: int) -> str | None:
        """A tree has no levels of a single server but the root; replicas need a GPU each where there are any."""
        servers, deepest = math.ceil(replicas / self.fanout), 2
        while servers > self.fanout > 1:
            servers, deepest = math.ceil(servers / self.fanout), deepest + 1
        if self.depth > deepest:
            return f"{replicas} workers with fanout={self.fanout} make {deepest} levels at most; use depth={deepest}"
        return skip_for_gpus(replicas)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The root, the servers below it, the workers."""
        return ps_tasks(self.ps + len(self.nodes(replicas)), replicas, self.port, place)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """Every task defines all variables. Its place in the tree decides what it does with them."""
        import tensorflow as tf

        from ._count import Counter
        from ._leaf import Above, combine, push_at_once
        from ._session import join
        from ._sync import Barrier, SyncTrainer, update_forever
        from ._variables import on_server, shared_variable
        from ._weights import share

        nodes = self.nodes(workload.replicas)
        with join(task, workload, self.ps) as member, tf.device(member.device):
            shared = share(workload, member.source)
            copies = {
                node: [shared_variable(f"leaf_{node}/{w.op.name}", node, w.shape, w.dtype) for w in shared.weights]
                for node in nodes
            }
            told = {node: shared_variable(f"told_{node}", node, (3,), tf.int64) for node in nodes}
            counter = Counter(lock=True)
            top = [node for node, each in nodes.items() if each.above is None]
            root = Barrier(on_server(0), "root_", top, shared.trained)
            meets = {
                node: Barrier(on_server(node), f"leaf_{node}_", each.members, trained)
                for node, each in nodes.items()
                for trained in [[copies[node][place] for place in shared.places]]
            }
            if task.role == "worker":
                leaf = list(nodes)[task.index // self.fanout]
                yield SyncTrainer(
                    member, workload, shared, meets[leaf], copies[leaf], told[leaf], copies=list(copies.values())
                )
            elif task.index not in nodes:
                updates = task.index == 0 and self.mode == "sync"
                yield member.server(shared.weights, update_forever(root, shared) if updates else None)
            else:
                own, node = nodes[task.index], task.index
                if own.above is None and self.mode == "async":
                    loop = push_at_once(meets[node], counter, shared, copies[node], told[node])
                else:
                    beside, workers = (top, workload.replicas)
                    above = Above(root, shared.weights, None)
                    if own.above is not None:
                        beside, workers = nodes[own.above].members, nodes[own.above].workers
                        above = Above(meets[own.above], copies[own.above], told[own.above])
                    share_of_all = own.workers * len(beside) / workers
                    loop = combine(meets[node], above, share_of_all, node, copies[node], told[node])
                yield member.server(copies[node], loop)


def _groups(members: Sequence[int], most: int) -> list[list[int]]:
    """In order, each of so many but the last."""
    return [list(members[start : start + most]) for start in range(0, len(members), most)]
