"""Runs specs one after the other: folder, launch, record, tables."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import NewerResultsError, ResultsError, RunError, StratbenchError, UsageError
from ...results.raw import journal, record, run_folder
from ...results.raw.environment import capture
from ...results.raw.files import shown, why
from ...results.tables.store import Store, read_statuses
from ...strategies.base import Place, Task
from ..plan import sources
from ..plan.spec import RunSpec
from .beside import Beside
from .launcher import Launch, Outcome
from .ports import Ports
from .starter import BACKEND_VARIABLE, Starter
from .watch import Listener

WhyNot = Callable[[RunSpec], str]
"""A spec → why it is not run, in one sentence; empty if it is."""


def tell(line: str) -> None:
    """Print a message to the user on standard error, in addition to the results of runs."""
    print(f"stratbench: {line}", file=sys.stderr)


def open_store(output: Path) -> Store:
    """The output folder's tables, for writing. Raises UsageError, before anything ran, if the folder can't be used."""
    try:
        return Store(output)
    except ResultsError as error:
        raise UsageError(str(error)) from None


def statuses(output: Path) -> dict[str, str]:
    """Run id → status of each run of an output folder: from its tables, and from records that are not in them.

    It is ``run_folder.UNREADABLE`` if the record can't be read and the run isn't ``ok`` in the tables.

    Raises:
        UsageError: the tables or the runs' folders can't be read; or some are from a newer stratbench.
    """
    try:
        found = read_statuses(output)
        for folder in run_folder.recorded(output):
            if found.get(folder.name) != "ok":
                found[folder.name] = _recorded_status(folder)
    except ResultsError as error:
        raise UsageError(str(error)) from None
    return found


def _recorded_status(folder: Path) -> str:
    try:
        return str(run_folder.load(folder).run["status"])
    except NewerResultsError:
        raise
    except ResultsError:
        return run_folder.UNREADABLE


def free_repeat(spec: RunSpec, statuses: dict[str, str]) -> RunSpec:
    """The spec with the first repeat that is neither ``ok`` nor unreadable, so that no earlier run is replaced."""
    while statuses.get(spec.run_id) in ("ok", run_folder.UNREADABLE):
        spec = spec.model_copy(update={"repeat": spec.repeat + 1})
    return spec


def prepare(spec: RunSpec, folder: Path) -> str:
    """Make an empty folder for the run, with its spec. Returns what ``run_folder.make_room`` does. Raises OSError."""
    said = run_folder.make_room(folder)
    (folder / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
    return said


def run_one(
    spec: RunSpec,
    store: Store,
    stop: threading.Event,
    listen: Listener,
    warn: Callable[[str], None] = tell,
    starter: Starter | None = None,
    why_not: WhyNot = lambda spec: "",
) -> record.Record:
    """Run the spec and record the result, also if it failed.

    Args:
        warn: called with one line if an old folder of the run was put aside.
        why_not: the run is skipped, beside the reasons of its spec; empty if it is not.

    Raises:
        RunError: the run's folder can't be written.
        ResultsError: its row can't be written.
    """
    folder = store.folder / "runs" / spec.run_id
    try:
        said = prepare(spec, folder)
    except OSError as error:
        raise RunError(f"the run's folder {shown(folder)} can't be written: {why(error)}") from None
    if said:
        warn(said)
    if reason := spec.skip() or why_not(spec):
        now = time.time()
        outcome = Outcome("skipped", reason, {}, now, now)
    else:
        outcome = _outcome(spec, folder, stop, listen, starter or Starter(forks=False))
    made = collect(spec, folder, outcome)
    store.add(made)
    return made


def collect(spec: RunSpec, folder: Path, outcome: Outcome) -> record.Record:
    """The run's record, from its tasks' journals, saved as ``record.json``."""
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
        environment=capture() | {"model_commit": sources.commit(spec.model)},
        input=spec.input,
        beside=outcome.beside,
    )
    made.save(folder / record.NAME)
    return made


def tasks_of(spec: RunSpec, place: Place) -> list[Task]:
    """The run's tasks, each with the Keras backend that its strategy needs, whatever the user's environment says."""
    strategy = spec.create_strategy()
    backend = {BACKEND_VARIABLE: strategy.backend}
    return [dataclasses.replace(task, env={**task.env, **backend}) for task in strategy.tasks(spec.replicas, place)]


def _outcome(spec: RunSpec, folder: Path, stop: threading.Event, listen: Listener, starter: Starter) -> Outcome:
    now = time.time()
    try:
        with Ports() as ports:
            tasks = tasks_of(spec, ports)
            beside = Beside(tasks, listen, ours=starter.pids)
            react = spec.create_strategy().after_death
            outcome = Launch(tasks, folder, spec.timeout, stop, beside.listen, react, starter).run()
            return dataclasses.replace(outcome, beside=beside.finish())
    except StratbenchError as error:
        return Outcome("failed", str(error), {}, now, time.time())
    except OSError as error:
        return Outcome("failed", f"its tasks could not be started: {error}", {}, now, time.time())


def run_all(
    specs: list[RunSpec],
    store: Store,
    stop: threading.Event,
    begin: Callable[[RunSpec], Listener],
    warn: Callable[[str], None],
    starter: Starter,
    why_not: WhyNot,
) -> Iterator[tuple[RunSpec, record.Record]]:
    """Run each spec until ``stop`` is set, and yield its record after its row is written."""
    for spec in specs:
        if stop.is_set():
            return
        yield spec, run_one(spec, store, stop, begin(spec), warn, starter, why_not)
