"""Writes the row of a run in somebody else's job: ``python -m stratbench.harness.job.recorder OUTPUT FOLDER``.

Rank 0 says on standard input how the run ended. The end of that stream without a word, or SIGTERM and no word soon
after, means that the job was ended.
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


def main() -> None:
    """Wait, then write the row. Exit code 0 once it is written."""
    output, folder = map(Path, sys.argv[1:])
    terminated: list[float] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(time.monotonic()))
    started = time.time()
    status, _, reason = _word(terminated).partition(" ")
    spec = specs.read(folder / "spec.json")
    try:
        with Store(output) as store:
            store.recover(tell)
            store.add(collect(spec, folder, _outcome(status, reason, spec.replicas, folder, started)))
    except StratbenchError as error:
        print(f"stratbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _word(terminated: list[float]) -> str:
    """What rank 0 says; ``failed`` if it never will."""
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
    return "gone without a word"


def _explain(logs: dict[str, journal.TaskLog], ends: dict[str, str]) -> str:
    """Who is gone, else who failed first: a rank that was killed takes the others' collectives with it.

    mpirun ends the others as soon as one is gone, so all that are gone are named.
    """
    gone = [label for label, end in ends.items() if end == "gone without a word"]
    failed = sorted((log.failed["time"], label, log.failed["error"]) for label, log in logs.items() if log.failed)
    if gone:
        steps = [logs[label].steps["step"].max() for label in gone if len(logs[label].steps)]
        after = f"after step {max(steps)}" if steps else "before the first step"
        were = "was" if len(gone) == 1 else "were"
        return f"{', '.join(gone)} {were} gone without a word {after}; what started the job says how"
    if failed:
        return f"{failed[0][1]}: {failed[0][2]}"
    return "the job was ended by what started it"


if __name__ == "__main__":
    main()
