"""``horovodrun -np 8 stratbench run -s horovod …``: inside such a job this process is one of its workers.

Another launcher started the job and ends it, and may kill rank 0 at any moment. So rank 0 starts a recorder: a process
that waits for rank 0's report, or for its death, and writes the row: see `recorder`. Every rank makes the same spec
from the same flags. All ranks must see the same output folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...errors import ResultsError, RunError, UsageError
from ...results.raw import run_folder
from ...results.raw.files import shown, why
from ...results.raw.record import NAME, Record
from ...strategies import registry as strategies
from ...strategies.base import Task
from ..launch.run import open_store
from ..launch.starter import BACKEND_VARIABLE
from ..plan.spec import RunSpec
from ..plan.task import PARENT_VARIABLE, Job
from ..worker.main import redirect, run_task, train_or_serve
from . import recorder


def joins(strategy: str, replicas: int, job: Job) -> bool:
    """Whether this process is a worker of ``job``, rather than a launcher that happens to run in one.

    Args:
        strategy: its reference.

    Raises UsageError for a strategy that starts its own processes, in a job of several, and for a wrong size.
    """
    name = strategy.partition(":")[0]
    if not strategies.find(name).joins_jobs:
        if job.size == 1:
            return False
        raise UsageError(
            f"inside a job of {job.size} processes only a strategy like horovod, whose workers a job starts, can run. "
            f"Received: {name}."
        )
    if replicas != job.size:
        raise UsageError(f"--replicas must be the job's size, {job.size}, or left out. Received: {replicas}.")
    return True


def run_in_job(spec: RunSpec, job: Job, output: Path) -> Record:
    """Do this rank's part; only rank 0 returns, with the record. Raises RunError if no row could be written."""
    # The job's launcher started this process. A stratbench above that launcher is not its parent.
    os.environ.pop(PARENT_VARIABLE, None)
    os.environ[BACKEND_VARIABLE] = spec.create_strategy().backend
    folder = output / "runs" / spec.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the run's folder must be writable: {why(error)}. Received: {shown(folder)}.") from None
    task = Task(index=job.rank, first_replica=job.local_rank)
    if job.rank:
        redirect(folder / f"{task.label}.log")
        os._exit(run_task(spec, task, folder, train_or_serve))
    open_store(output).close()
    _start_anew(spec, folder)
    writer = subprocess.Popen(
        [sys.executable, "-P", "-m", recorder.__name__, str(output), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    terminal = [os.dup(1), os.dup(2)]
    redirect(folder / f"{task.label}.log")
    reason = spec.skip()
    report = f"skipped {reason}" if reason else "failed" if run_task(spec, task, folder, train_or_serve) else "ok"
    for saved, stream in zip(terminal, (1, 2), strict=True):
        os.dup2(saved, stream)
    writer.communicate(report.encode())
    if writer.returncode:
        raise RunError(f"the run was {report} but its row could not be written; see the line above")
    return run_folder.load(folder)


def _start_anew(spec: RunSpec, folder: Path) -> None:
    """Remove the record of a failed attempt, whose row is in the tables. Other ranks may already use the folder.

    Raises UsageError if the record must not be lost: it can't be read, or the run was ok.
    """
    old = folder / NAME
    try:
        if os.path.lexists(old):
            if run_folder.load(folder).run["status"] == "ok":
                raise UsageError(f"a run that is ok is not run again. Received: {shown(old)}.")
            old.unlink()
        (folder / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
    except ResultsError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"the run's folder must be writable: {why(error)}. Received: {shown(folder)}.") from None
