"""The processes of a ps/worker cluster."""

from __future__ import annotations

import json
from typing import Any

from ..base import Address, Task


def ps_tasks(servers: int, workers: int, port: int, address: Address) -> list[Task]:
    """``servers`` ps tasks and then the workers, on free ports, or on those from ``port`` on."""
    total = servers + workers
    addresses = [address(port + index if port else None) for index in range(total)]
    cluster = {"ps": addresses[:servers], "worker": addresses[servers:]}

    def task(role: str, index: int, **settings: Any) -> Task:
        config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
        return Task(role, index, env={"TF_CONFIG": config}, **settings)

    return [task("ps", index, replicas=0) for index in range(servers)] + [
        task("worker", index, first_replica=index) for index in range(workers)
    ]
