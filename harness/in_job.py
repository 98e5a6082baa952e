"""``horovodrun -np 8 stratbench run -s horovod …``: inside such a job this process is one of its workers.

Somebody else's launcher started the job and ends it. Every rank makes the same spec from the same flags; rank 0 also
writes the row. The output folder must be one that all ranks see.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from ..errors import UsageError
from ..results import journal
from ..results.record import Record
from ..results.store import Store
from ..strategies.base import Task
from .launch import Outcome
from .run import collect
from .spec import RunSpec
from .task import Job
from .worker import redirect, run_task

OTHERS_SECONDS = 10.0
TERMINATION_SECONDS = 2.0


def joins(spec: RunSpec, job: Job) -> bool:
    """Whether this process is a worker of ``job``, rather than a launcher that happens to run in one.

    Raises UsageError for a strategy that starts its own processes, in a job of several, and for a wrong size.
    """
    strategy = spec.create_strategy()
    if not any(task.command for task in strategy.tasks(spec.replicas, lambda port: "localhost:0")):
        if job.size == 1:
            return False
        raise UsageError(
            f"inside a job of {job.size} processes only a strategy whose workers a job starts can run, such as horovod. "
            f"Received: {spec.strategy}."
        )
    if spec.replicas != job.size:
        raise UsageError(f"--replicas must be the job's size, {job.size}, or left out. Received: {spec.replicas}.")
    return True


def run_in_job(spec: RunSpec, job: Job, output: Path) -> Record | None:
    """Do this rank's part; rank 0 returns the record. Ends with the row written whatever happens, if it can be."""
    folder = output / "runs" / spec.run_id
    task = Task(index=job.rank, first_replica=job.local_rank)
    folder.mkdir(parents=True, exist_ok=True)
    if job.rank:
        redirect(folder / f"{task.label}.log")
        os._exit(run_task(spec, task, folder))
    store = Store(output)
    reason = spec.create_strategy().skip(spec.replicas)
    recorder = _Recorder(spec, folder, store, job.size)
    if reason:
        return recorder.write("skipped", reason)
    recorder.write_when_terminated()
    (folder / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
    terminal = [os.dup(1), os.dup(2)]
    redirect(folder / f"{task.label}.log")
    code = run_task(spec, task, folder)
    for saved, stream in zip(terminal, (1, 2), strict=True):
        os.dup2(saved, stream)
    return recorder.write("failed" if code else "ok", "")


class _Recorder:
    """Writes the row once, from whichever comes first: the end of the work, or SIGTERM."""

    def __init__(self, spec: RunSpec, folder: Path, store: Store, size: int):
        self._spec = spec
        self._folder = folder
        self._store = store
        self._size = size
        self._started = time.time()
        self._lock = threading.Lock()
        self._record: Record | None = None

    def write(self, status: str, reason: str) -> Record:
        """The run's row, with what every rank has journalled."""
        with self._lock:
            if self._record is None:
                outcome = self._outcome(status, reason)
                self._record = collect(self._spec, self._folder, outcome)
                self._store.add(self._record)
            return self._record

    def write_when_terminated(self) -> None:
        """A thread takes SIGTERM, as the main one may wait in a collective for a peer that is dead."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

        def wait() -> None:
            signal.sigwait([signal.SIGTERM])
            time.sleep(TERMINATION_SECONDS)
            self.write("failed", "ended by SIGTERM, as its launcher does when another rank has died")
            os._exit(1)

        threading.Thread(target=wait, daemon=True, name="sigterm").start()

    def _outcome(self, status: str, reason: str) -> Outcome:
        labels = [f"worker-{rank}" for rank in range(self._size)]
        if status == "ok":
            self._wait_for_others(labels)
        logs = {label: journal.read(self._folder / f"{label}.jsonl") for label in labels}
        failures = sorted(
            (log.failed["time"], label, log.failed["error"]) for label, log in logs.items() if log.failed
        )
        ends = {
            label: "ended" if log.end else f"failed: {log.failed['error']}" if log.failed else "gone without a word"
            for label, log in logs.items()
            if status != "skipped"
        }
        if failures and status == "failed":
            silent = [label for label, end in ends.items() if end == "gone without a word"]
            reason = f"{failures[0][1]}: {failures[0][2]}" + (f"; without a word: {', '.join(silent)}" if silent else "")
        return Outcome(status, reason, ends, self._started, time.time())

    def _wait_for_others(self, labels: list[str]) -> None:
        deadline = time.monotonic() + OTHERS_SECONDS
        while time.monotonic() < deadline:
            if all(journal.read(self._folder / f"{label}.jsonl").end for label in labels):
                return
            time.sleep(0.1)
