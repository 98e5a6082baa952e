"""Runs specs one after the other: folder, launch, record, tables."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import ResultsError, RunError, StratbenchError, UsageError
from ...results import load
from ...results.raw import journal, record
from ...results.raw.environment import capture
from ...results.tables.store import Store
from ..plan.spec import RunSpec
from .beside import Beside
from .launcher import Launch, Outcome
from .ports import Ports
from .watch import Listener


def open_store(output: Path) -> Store:
    """The output folder's tables, to write to. Raises UsageError for a folder that can't be used: nothing has run."""
    try:
        return Store(output)
    except ResultsError as error:
        raise UsageError(str(error)) from None


def statuses(output: Path) -> dict[str, str]:
    """Status of each run of an output folder, by run id: from its tables, and from records that never got there.

    Raises UsageError for tables that can't be read.
    """
    found: dict[str, str] = {}
    if (output / "results.h5").exists():
        try:
            runs = load(output).runs
        except ResultsError as error:
            raise UsageError(str(error)) from None
        found = dict(zip(runs["run_id"], runs["status"], strict=True))
    for path in output.glob("runs/*/record.json"):
        if found.get(path.parent.name) != "ok":
            with contextlib.suppress(ResultsError):
                found[path.parent.name] = record.Record.load(path).run["status"]
    return found


def free_repeat(spec: RunSpec, statuses: dict[str, str]) -> RunSpec:
    """The spec as the first repeat that has no ``ok`` row: running again adds a measurement, and loses none."""
    while statuses.get(spec.run_id) == "ok":
        spec = spec.model_copy(update={"repeat": spec.repeat + 1})
    return spec


def prepare(spec: RunSpec, folder: Path) -> None:
    """An empty folder for the run, with its spec. Raises OSError."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")


def run_one(spec: RunSpec, store: Store, stop: threading.Event, listen: Listener) -> record.Record:
    """Run it, record it, whatever becomes of it. Raises ResultsError only: the row could not be written."""
    folder = store.folder / "runs" / spec.run_id
    try:
        prepare(spec, folder)
    except OSError as error:
        raise RunError(f"the run's folder {folder} can't be written: {error.strerror}") from None
    outcome = _outcome(spec, folder, stop, listen)
    made = collect(spec, folder, outcome)
    store.add(made)
    return made


def collect(spec: RunSpec, folder: Path, outcome: Outcome) -> record.Record:
    """The run's record, from what its tasks have journalled, saved as ``record.json``."""
    made = record.build(
        spec=spec.model_dump(),
        run_id=spec.run_id,
        status=outcome.status,
        reason=outcome.reason,
        logs=[journal.read(path) for path in sorted(folder.glob("*.jsonl"))],
        outcomes=outcome.tasks,
        losses=[dataclasses.asdict(loss) | {"reaction": loss.reaction.value} for loss in outcome.losses],
        started=outcome.started,
        finished=outcome.finished,
        environment=capture(),
        input=spec.input,
        beside=outcome.beside,
    )
    made.save(folder / "record.json")
    return made


def _outcome(spec: RunSpec, folder: Path, stop: threading.Event, listen: Listener) -> Outcome:
    now = time.time()
    why_not = spec.skip()
    if why_not:
        return Outcome("skipped", why_not, {}, now, now)
    try:
        with Ports() as ports:
            strategy = spec.create_strategy()
            tasks = strategy.tasks(spec.replicas, ports.address)
            beside = Beside(tasks, listen)
            outcome = Launch(tasks, folder, spec.timeout, stop, beside.listen, strategy.after_death).run()
            return dataclasses.replace(outcome, beside=beside.finish())
    except StratbenchError as error:
        return Outcome("failed", str(error), {}, now, time.time())
    except OSError as error:
        return Outcome("failed", f"its tasks could not be started: {error}", {}, now, time.time())


def run_all(
    specs: list[RunSpec], store: Store, stop: threading.Event, begin: Callable[[RunSpec], Listener]
) -> Iterator[tuple[RunSpec, record.Record]]:
    """Run each spec until ``stop`` is set, and yield its record once its row is written."""
    for spec in specs:
        if stop.is_set():
            return
        yield spec, run_one(spec, store, stop, begin(spec))
