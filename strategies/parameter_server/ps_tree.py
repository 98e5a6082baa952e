"""A tree of parameter servers: workers push to a leaf, leaves combine what they get and push it to the root.

A leaf l of n_l workers forms the mean g_l of their gradients; ``mode=sync``: the root applies (1/N) Σ n_l g_l once all
leaves have pushed. ``mode=async``: the root applies each leaf's g_l at once, and leaves do not wait for one another.
After an update a leaf takes θ from the root, and its workers read it there.
Source: Mai et al., *Optimizing Network Performance in Distributed Machine Learning*, HotCloud 2015;
Hsieh et al., *Gaia*, NSDI 2017.

Limits: two levels; the root is one task. The gRPC servers listen on every interface, without authentication.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from annotated_types import Ge, Le

from .._shared.devices import skip_for_gpus
from ..base import Place, Strategy, Task, Traits, option
from ..trainer import Server, Trainer, Workload
from ._tasks import ps_tasks


@dataclasses.dataclass(frozen=True)
class ParameterServerTree(Strategy):
    """Task 0 of the ps tasks is the root, the others are the leaves."""

    name = "ps-tree"
    summary = "parameter servers in a tree: leaves combine their workers' gradients and push them to the root"
    family = "data parallel"
    good_for = "many workers: the root receives one gradient a leaf"
    needs = "one free TCP port a worker, a leaf and the root"
    traits = Traits(
        synchronous="yes; mode=async: within a leaf",
        consistent="yes; mode=async: within a leaf",
        traffic="W each way; a leaf W more to the root and back",
        memory="W in transit; leaf W, root W + S",
        failure="the run ends",
    )

    fanout: Annotated[int, Ge(1)] = option(2, "workers of a leaf")
    mode: Literal["sync", "async"] = option("sync", "whether the root waits for all leaves")
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port, root first, then leaves; 0 takes free ones")

    def leaves(self, replicas: int) -> dict[int, list[int]]:
        """The workers of each leaf, by the leaf's ps task."""
        workers = range(replicas)
        starts = range(0, replicas, self.fanout)
        return {leaf: list(workers[start : start + self.fanout]) for leaf, start in enumerate(starts, start=1)}

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each worker fetches the weights from its leaf in each step, and pushes a gradient to it for each update."""
        return replicas * weights_bytes * (1 + 1 / accumulate)

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The root, the leaves, the workers."""
        return ps_tasks(1 + len(self.leaves(replicas)), replicas, self.port, place)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """Every task defines all variables. Its place in the tree decides what it does with them."""
        import tensorflow as tf

        from ._count import Counter
        from ._graph import on_server, share, shared_variable
        from ._leaf import combine, push_at_once
        from ._session import join
        from ._sync import Barrier, SyncTrainer, update_forever

        leaves = self.leaves(workload.replicas)
        with join(task, workload) as node, tf.device(node.device):
            shared = share(workload, node.source, [0])
            copies = {
                leaf: [shared_variable(f"leaf_{leaf}/{w.op.name}", leaf, w.shape, w.dtype) for w in shared.weights]
                for leaf in leaves
            }
            counter = Counter(lock=True)
            told = {leaf: shared_variable(f"told_{leaf}", leaf, (3,), tf.int64) for leaf in leaves}
            root = Barrier(on_server(0), "root_", list(leaves), shared.trained)
            meets = {
                leaf: Barrier(on_server(leaf), f"leaf_{leaf}_", workers, trained)
                for leaf, workers in leaves.items()
                for trained in [[copies[leaf][place] for place in shared.places]]
            }
            if task.role == "worker":
                leaf = 1 + task.index // self.fanout
                yield SyncTrainer(
                    node, workload, shared, meets[leaf], copies[leaf], told[leaf], copies=list(copies.values())
                )
            elif task.index == 0:
                yield node.server(shared.weights, update_forever(root, shared) if self.mode == "sync" else None)
            else:
                leaf = task.index
                share_of_all = len(leaves[leaf]) * len(leaves) / workload.replicas
                loop = (
                    combine(meets[leaf], root, share_of_all, leaf, shared, copies[leaf], told[leaf])
                    if self.mode == "sync"
                    else push_at_once(meets[leaf], counter, shared, copies[leaf], told[leaf])
                )
                yield node.server(copies[leaf], loop)
