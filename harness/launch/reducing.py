"""Launches the processes of one measured all-reduce after the other, and makes rows of what they journal."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import RunError, StratbenchError
from ...results.raw import journal, machine
from ...results.raw.environment import capture
from ...results.raw.files import shown, why
from ...results.raw.journal import Follower
from ...results.reductions.columns import VECTOR
from ...results.reductions.measure import figures, line
from ...results.reductions.tables import ReductionStore
from ..plan.reduction import ReductionSpec
from .beside import Beside
from .launcher import Launch, Outcome
from .ports import Ports
from .starter import BACKEND_VARIABLE, Starter
from .watch import Listener

FOLDER = "allreduce"
"""Subfolder of the output folder, with a folder for each transport that was launched."""
_MODULE = "stratbench.harness.worker.reducing"

Rows = dict[str, list[dict[str, Any]]]


def reduce_all(
    specs: Sequence[ReductionSpec],
    store: ReductionStore,
    stop: threading.Event,
    begin: Callable[[ReductionSpec], Listener],
    starter: Starter,
) -> Iterator[tuple[ReductionSpec, dict[str, Any]]]:
    """Measure each until ``stop`` is set, and yield its row of the table ``transports`` once that is written."""
    for spec in specs:
        if stop.is_set():
            return
        rows = reduce_one(spec, store.folder, stop, begin(spec), starter)
        store.add(rows)
        yield spec, rows["transports"][0]


def reduce_one(spec: ReductionSpec, output: Path, stop: threading.Event, listen: Listener, starter: Starter) -> Rows:
    """Launch the processes and wait for their end. → rows of all tables. Raises RunError if there can't be a folder."""
    now = datetime.now(UTC)
    run_id = f"{re.sub(r'[^a-z0-9]+', '-', spec.title.lower())}-{spec.replicas}-{now:%Y%m%dT%H%M%S%f}"
    folder = output / FOLDER / run_id
    if reason := spec.skip():
        outcome = Outcome("skipped", reason, {}, time.time(), time.time())
    else:
        try:
            folder.mkdir(parents=True)
            (folder / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise RunError(f"the folder {shown(folder)} can't be written: {why(error)}") from None
        outcome = _outcome(spec, folder, stop, listen, starter)
    logs = [folder / f"{label}.jsonl" for label in spec.workers()]
    transport = {
        "run_id": run_id,
        "status": outcome.status,
        "reason": outcome.reason,
        "started_at": now.isoformat(timespec="seconds"),
        "transport": spec.title,
        "strategy": spec.strategy,
        "options": json.dumps(spec.options, sort_keys=True),
        "replicas": spec.replicas,
        "cores_per_replica": spec.cores_per_replica,
        "disturbed": machine.run(outcome.beside, [journal.read(path) for path in logs])["disturbed"],
        **capture(),
    }
    rows = _case_rows(spec, run_id, _reduced(logs))
    vectors = [row for row in rows["reductions"] if row["tensors"] == VECTOR]
    fitted = line([row["size_bytes"] for row in vectors], [row["seconds_median"] for row in vectors])
    return {"transports": [transport | fitted], **rows}


def _case_rows(spec: ReductionSpec, run_id: str, reduced: Sequence[Sequence[Mapping[str, Any]]]) -> Rows:
    """Of the tables ``reductions`` and ``samples``.

    Args:
        reduced: of each case, what each process has journalled.
    """
    rows: Rows = {"reductions": [], "samples": []}
    strategy = spec.create_strategy()
    rounds = strategy.rounds(spec.replicas)
    for case, of_ranks in zip(spec.cases, reduced, strict=False):
        what = {"run_id": run_id, "tensors": case.tensors, "size_bytes": case.size_bytes}
        expected = {
            "tensor_count": len(case.shapes),
            "moved_bytes_expected": sum(strategy.traffic_bytes(each, spec.replicas) for each in case.sizes_bytes),
            "rounds_expected": None if rounds is None else rounds * len(case.shapes),
        }
        found = figures(case.size_bytes, of_ranks, spec.replicas, not spec.copies)
        rows["reductions"].append(what | expected | found)
        rows["samples"] += [
            what | {"rank": rank, "iteration": number, "seconds": seconds}
            for rank, each in enumerate(of_ranks)
            for number, seconds in enumerate(each["seconds"])
        ]
    return rows


def _outcome(spec: ReductionSpec, folder: Path, stop: threading.Event, listen: Listener, starter: Starter) -> Outcome:
    began = time.time()
    try:
        with Ports() as ports:
            strategy = spec.create_strategy()
            tasks = [
                dataclasses.replace(task, env={**task.env, BACKEND_VARIABLE: strategy.backend})
                for task in strategy.tasks(spec.replicas, ports)
            ]
            beside = Beside(tasks, listen, ours=starter.pids)
            launch = Launch(tasks, folder, spec.timeout, stop, beside.listen, starter=starter, module=_MODULE)
            return dataclasses.replace(launch.run(), beside=beside.finish())
    except StratbenchError as error:
        return Outcome("failed", str(error), {}, began, time.time())
    except OSError as error:
        return Outcome("failed", f"its tasks could not be started: {error}", {}, began, time.time())


def _reduced(journals: Sequence[Path]) -> list[list[dict[str, Any]]]:
    """Of each case that all processes have ended, what each has journalled."""
    logs = [Follower(path).poll() for path in journals]
    of_ranks = [[event for event in log if event["event"] == "reduced"] for log in logs]
    return [list(each) for each in zip(*of_ranks, strict=False)]
