"""The processes of a cut model."""

from __future__ import annotations

import json

from ..base import Place, Task

JOB = "part"
"""TensorFlow's name of the job; of stratbench's tasks, the role of all but worker 0."""


def tasks_of(count: int, place: Place) -> list[Task]:
    """Worker 0 and ``count - 1`` tasks of the role ``part``, each with the cores of a replica."""
    hosts = [place.host(index) for index in range(count)]
    cluster = {JOB: [place.address(host) for host in hosts]}

    def environment(index: int) -> dict[str, str]:
        return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": JOB, "index": index}})}

    return [
        Task(JOB if index else "worker", index, host, first_replica=index, env=environment(index))
        for index, host in enumerate(hosts)
    ]
