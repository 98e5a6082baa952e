"""The task of this process: started by the launcher, or a member of a Horovod or MPI job."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UsageError
from ...strategies.base import TASK_VARIABLE, THIS_HOST, Task

MOST_REPLICAS = 4096
"""Of one run; also the most processes of a job: each is listed in a run's rows."""
MOST_COUNT = 2**31 - 1
"""The largest number of anything here: it must fit TensorFlow's 32-bit integers."""
PARENT_VARIABLE = "STRATBENCH_PARENT"
SCRATCH = "scratch"
"""Subfolder of a run's folder, for files that the tasks need only during the run."""
LOST_SUFFIX = ".lost"
"""Suffix of an empty file with the label of a task that died and won't be started again. The launcher makes it."""

_ROLE = re.compile(r"[a-z]{1,16}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_JOBS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


class NoPlace:
    """A `stratbench.strategies.base.Place` to ask which tasks a run would have: it reserves nothing."""

    def host(self, replica: int) -> str:
        """This machine."""
        return THIS_HOST

    def address(self, host: str, port: int | None = None) -> str:
        """No real address."""
        return f"{host}:0"


def task_labels(tasks: Sequence[Task]) -> list[str]:
    """``worker-0``, …: the labels of all tasks, also of those that a job's own launcher starts."""
    return [f"{task.role}-{index if task.command else task.index}" for task in tasks for index in range(task.starts)]


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that horovodrun or mpirun started: this process's rank, the number of ranks, its rank on this host."""

    rank: int
    size: int
    local_rank: int


def current_job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job that this process is part of, from the environment; None if there is none.

    Raises UsageError for numbers that no job can have.
    """
    for names in _JOBS:
        rank, size, local_rank = names
        if rank in environ and size in environ:
            texts = [environ[rank], environ[size], environ.get(local_rank, environ[rank])]
            if not all(map(_NUMBER.fullmatch, texts)) or not _is_place(*map(int, texts)):
                given = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
                raise UsageError(
                    f"in a job that horovodrun or mpirun started, {rank} must be from 0 to {size} − 1, and {size} from "
                    f"1 to {MOST_REPLICAS}; outside of a job, unset them. Received: {given}."
                )
            return Job(*map(int, texts))
    return None


def _is_place(rank: int, size: int, local_rank: int) -> bool:
    return rank < size and local_rank < size and size <= MOST_REPLICAS


def current_task(environ: Mapping[str, str] = os.environ) -> tuple[Task, bool]:
    """This process's task, and whether its index is from a job's own launcher, not from stratbench's.

    Raises UsageError for a description that the launcher would not write.
    """
    told = _told(environ.get(TASK_VARIABLE, "{}"))
    job = current_job(environ)
    if job is None or "index" in told:
        return Task(**told), False
    return Task(**told, index=job.rank, first_replica=job.local_rank), True


def _is_role(role: Any) -> bool:
    return isinstance(role, str) and _ROLE.fullmatch(role) is not None


def launcher_pid(environ: Mapping[str, str] = os.environ) -> int | None:
    """The process id of this task's launcher; None if it is not set. Raises UsageError if it is not a process id."""
    text = environ.get(PARENT_VARIABLE)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{PARENT_VARIABLE} must be set only by stratbench's launcher; unset it. Received: {text}.")
    return int(text)


def _told(text: str) -> dict[str, Any]:
    """The fields of a task, as `Task.to_json` wrote them."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    counts = ("replicas", "index", "first_replica", "attempt")
    if isinstance(told, dict) and told.keys() <= {"role", *counts} and _is_role(told.get("role", "worker")):
        numbers = [told[name] for name in counts if name in told]
        if all(type(number) is int and 0 <= number <= MOST_COUNT for number in numbers):
            return told
    raise UsageError(f"{TASK_VARIABLE} must be set only by stratbench's launcher; unset it. Received: {text}.")
