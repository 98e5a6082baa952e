"""Writes the row of a run in a job that another launcher started.

Usage: ``python -m stratbench.harness.job.recorder OUTPUT FOLDER``. Rank 0 writes to standard input how the run ended.
If the stream ends without this line, or SIGTERM arrives and no line follows soon, the job was ended.
"""

from __future__ import annotations

import select
import signal
import sys
import time
from pathlib import Path

import psutil

from ...errors import StratbenchError
from ...results.raw import journal
from ...results.tables.store import Store
from ..launch.launcher import Outcome
from ..launch.processes import alive
from ..launch.run import collect, tell
from ..plan import spec as specs

OTHERS_SECONDS = 10.0
TERMINATION_SECONDS = 1.0
POLL_SECONDS = 0.1
GONE = "lost without an exit code"


def main() -> None:
    """Wait, then write the row. The exit code is 0 if it was written."""
    output, folder = map(Path, sys.argv[1:])
    terminated: list[float] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(time.monotonic()))
    started = time.time()
    status, _, reason = _reported(terminated).partition(" ")
    spec = specs.read(folder / "spec.json")
    try:
        with Store(output) as store:
            store.recover(tell)
            store.add(collect(spec, folder, _outcome(status, reason, spec.replicas, folder, started)))
    except StratbenchError as error:
        print(f"stratbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _reported(terminated: list[float]) -> str:
    """The line from rank 0; ``failed`` if there will be none."""
    while not terminated or time.monotonic() - terminated[0] < TERMINATION_SECONDS:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            return sys.stdin.readline().strip() or "failed"
    return "failed"


def _outcome(status: str, reason: str, size: int, folder: Path, started: float) -> Outcome:
    if status == "skipped":
        return Outcome(status, reason, {}, started, time.time())
    labels = [f"worker-{rank}" for rank in range(size)]
    if status == "ok":
        _wait_for_all(labels, folder)
    logs = {label: journal.read(folder / f"{label}.jsonl") for label in labels}
    ends = {label: _end(log) for label, log in logs.items()}
    if status == "failed":
        reason = _explain(logs, ends)
    return Outcome(status, reason, ends, started, time.time())


def _wait_for_all(labels: list[str], folder: Path) -> None:
    deadline = time.monotonic() + OTHERS_SECONDS
    while time.monotonic() < deadline:
        if all(journal.read(folder / f"{label}.jsonl").end for label in labels):
            return
        time.sleep(POLL_SECONDS)


def _end(log: journal.TaskLog) -> str:
    if log.end:
        return "ended"
    if log.failed:
        return f"failed: {log.failed['error']}"
    if log.start and psutil.pid_exists(log.start["pid"]) and alive(psutil.Process(log.start["pid"])):
        return "ended by the job's launcher"
    return GONE


def _explain(logs: dict[str, journal.TaskLog], ends: dict[str, str]) -> str:
    """The ranks that are gone, else the first that failed: when a rank is killed, the others' collectives fail too.

    mpirun ends the others as soon as one is gone, so all ranks that are gone are named.
    """
    gone = [label for label, end in ends.items() if end == GONE]
    failed = sorted((log.failed["time"], label, log.failed["error"]) for label, log in logs.items() if log.failed)
    if gone:
        steps = [logs[label].steps["step"].max() for label in gone if len(logs[label].steps)]
        after = f"after step {max(steps)}" if steps else "before the first step"
        were = "was" if len(gone) == 1 else "were"
        return f"{', '.join(gone)} {were} {GONE} {after}; the output of the job's launcher may say how"
    if failed:
        return f"{failed[0][1]}: {failed[0][2]}"
    return "the job was ended by its launcher"


if __name__ == "__main__":
    main()
