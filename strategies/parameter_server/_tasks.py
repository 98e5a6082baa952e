"""The processes of a ps/worker cluster."""

from __future__ import annotations

import json
from typing import Any

from ..base import Place, Task

PART = "part"
"""Role of a task that has a part of a worker's model. The worker has the first part, and drives the others."""


def parts_of(worker: int, parts: int) -> range:
    """Indices of the tasks that have the other parts of its model."""
    return range(worker * (parts - 1), (worker + 1) * (parts - 1))


def ps_tasks(servers: int, workers: int, port: int, place: Place, parts: int = 1) -> list[Task]:
    """``servers`` ps tasks, the workers, and their parts, on free ports, or on those from ``port`` on.

    Args:
        parts: of each worker's model; each is a replica of the run's.
    """
    others = [index for worker in range(workers) for index in parts_of(worker, parts)]
    replicas = [worker * parts for worker in range(workers)]
    replicas += [worker * parts + 1 + number for worker in range(workers) for number in range(parts - 1)]
    hosts = [place.host(0)] * servers + [place.host(replica) for replica in replicas]
    addresses = [place.address(host, port + index if port else None) for index, host in enumerate(hosts)]
    cluster = {"ps": addresses[:servers], "worker": addresses[servers : servers + workers]}
    if others:
        cluster[PART] = addresses[servers + workers :]

    def task(role: str, index: int, host: str, **settings: Any) -> Task:
        config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
        return Task(role, index, host, env={"TF_CONFIG": config}, **settings)

    roles = [("worker", index) for index in range(workers)] + [(PART, index) for index in others]
    return [task("ps", index, host, replicas=0) for index, host in enumerate(hosts[:servers])] + [
        task(role, index, host, first_replica=replica)
        for (role, index), host, replica in zip(roles, hosts[servers:], replicas, strict=True)
    ]
