"""Which cores belong to which replica.

A replica that is not pinned uses every core, and then "1 replica" is secretly all of them: no scaling figure would
mean anything. So a replica gets the same number of cores at every scale of an experiment.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def usable() -> list[int]:
    """The cores that this process may use, by number; macOS tells only how many."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share(cores: list[int], first_replica: int, replicas: int, per_replica: int, total_replicas: int) -> list[int]:
    """The cores of a task. One that computes no replica gets those of all replicas, as it serves them all.

    Where there are fewer cores than the replicas ask for they are handed out in turn: several replicas share one.
    """
    if not replicas:
        first_replica, replicas = 0, total_replicas
    wanted = range(first_replica * per_replica, (first_replica + replicas) * per_replica)
    return sorted({cores[index % len(cores)] for index in wanted})


def pin(cores: list[int]) -> None:
    """Keep every thread of this process, and those that they start, on these cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        threads = Path("/proc/self/task")
        for thread in threads.iterdir() if threads.exists() else [Path("0")]:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)
