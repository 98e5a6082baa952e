"""Who this process is: a task of the launcher's, or a member of a Horovod or MPI job that somebody else started."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from ...strategies.base import TASK_VARIABLE, Task

PARENT_VARIABLE = "STRATBENCH_PARENT"
SCRATCH = "scratch"
"""Subfolder of a run's for files of its tasks that are of no use after it."""
LOST_SUFFIX = ".lost"
"""Of the empty file that the launcher names by the label of a task that died and won't be started again."""

_JOBS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def task_labels(tasks: Sequence[Task]) -> list[str]:
    """``worker-0``, …: of all tasks, those that a job's own launcher starts among them."""
    return [f"{task.role}-{index if task.command else task.index}" for task in tasks for index in range(task.starts)]


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that horovodrun or mpirun started: this process's rank, how many there are, and its place on this host."""

    rank: int
    size: int
    local_rank: int


def current_job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job that this process is part of, from the environment; None outside of any."""
    for rank, size, local_rank in _JOBS:
        if rank in environ and size in environ:
            return Job(int(environ[rank]), int(environ[size]), int(environ.get(local_rank, environ[rank])))
    return None


def current_task(environ: Mapping[str, str] = os.environ) -> tuple[Task, bool]:
    """This process's task, and whether a job's own launcher, not stratbench's, chose its index."""
    told = json.loads(environ.get(TASK_VARIABLE, "{}"))
    job = current_job(environ)
    if job is None or "index" in told:
        return Task(**told), False
    return Task(**told, index=job.rank, first_replica=job.local_rank), True
