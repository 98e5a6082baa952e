"""Which cores belong to which replica.

A replica that is not pinned uses every core. Then 1 replica would use as many cores as several, and a speed-up would
mean nothing. So a replica gets the same number of cores at every scale of an experiment.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def usable() -> list[int]:
    """The numbers of the cores that this process may use; macOS only says how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share(cores: list[int], first_replica: int, replicas: int, per_replica: int, total_replicas: int) -> list[int]:
    """The cores of a task. A task without replicas gets the cores of all replicas, because it serves all of them.

    If there are fewer cores than the replicas need, they are assigned in turn: several replicas share a core.
    """
    if not replicas:
        first_replica, replicas = 0, total_replicas
    wanted = range(first_replica * per_replica, (first_replica + replicas) * per_replica)
    return sorted({cores[index % len(cores)] for index in wanted})


def pin(cores: list[int]) -> None:
    """Bind all threads of this process, and the threads that they start, to these cores, if the system can."""
    if hasattr(os, "sched_setaffinity"):
        threads = Path("/proc/self/task")
        for thread in threads.iterdir() if threads.exists() else [Path("0")]:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)
