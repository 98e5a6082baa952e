"""The processes of a ps/worker cluster."""

from __future__ import annotations

import json
from typing import Any

from ..base import Place, Task


def ps_tasks(servers: int, workers: int, port: int, place: Place) -> list[Task]:
    """``servers`` ps tasks and then the workers, on free ports, or on those from ``port`` on."""
    hosts = [place.host(0)] * servers + [place.host(index) for index in range(workers)]
    addresses = [place.address(host, port + index if port else None) for index, host in enumerate(hosts)]
    cluster = {"ps": addresses[:servers], "worker": addresses[servers:]}

    def task(role: str, index: int, host: str, **settings: Any) -> Task:
        config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
        return Task(role, index, host, env={"TF_CONFIG": config}, **settings)

    return [task("ps", index, host, replicas=0) for index, host in enumerate(hosts[:servers])] + [
        task("worker", index, host, first_replica=index) for index, host in enumerate(hosts[servers:])
    ]
