"""One run's record: its rows of all tables, in ``record.json`` in the run's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import NewerResultsError, ResultsError
from .. import schema
from ..column import Columns, json_cell
from . import checked, equal_work, exchange, faults, machine, measure, quality, split, warmup
from .files import Staging, open_regular, shown, why
from .journal import PROFILES, TaskLog

NAME = "record.json"

# Tables that may have a million rows per run are kept in columns, from the journals' arrays of the same name.
_ARRAYS = ("steps", "updates")
_ROWS = ("epochs", "metrics", "staleness", "tasks")

_JSON_ROWS = 65_536

# Tables that older records don't have.
_LATER: dict[str, Any] = {"updates": {"run_id": []}, "staleness": [], "metrics": []}


@dataclass(frozen=True)
class Record:
    """A run in rows: one row of the runs table, any number of rows of the others.

    ``run`` is a row, ``epochs``, ``metrics``, ``tasks`` and ``staleness`` are lists of rows, with every column of
    ``schema.TABLES``. ``steps`` and ``updates`` may have a million rows and are kept in columns.
    """

    run: dict[str, Any]
    epochs: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    staleness: list[dict[str, Any]]
    steps: Columns
    updates: Columns

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return self.run["run_id"]

    def columns(self, table: str) -> Columns:
        """The record's part of ``table``, in columns."""
        if table in _ARRAYS:
            return getattr(self, table)
        return schema.columns(table, [self.run] if table == "runs" else getattr(self, table))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON, completely or not at all.

        Raises:
            ResultsError: the file can't be written; an older file stays as it was.
        """
        path = Path(path)
        try:
            with Staging() as staging, staging.file(path) as file:
                self._write(file)
        except OSError as error:
            raise ResultsError(
                f"A run's record must be writable. Received: {shown(path)}: {why(error)}. The run's journals and logs "
                "stay. Free some space and repeat the command: it renames their folder and starts the run again."
            ) from error

    def _write(self, file: BinaryIO) -> None:
        file.write(f'{{"schema_version": {schema.SCHEMA_VERSION}'.encode())
        for name in ("run", *_ROWS):
            file.write(f',\n"{name}": {_json(getattr(self, name))}'.encode())
        for table in _ARRAYS:
            for i, (name, values) in enumerate(self.columns(table).items()):
                file.write((f',\n"{table}": {{' if i == 0 else ",\n").encode())
                file.write(f'"{name}": ['.encode())
                # Part by part: the text of a million steps at once would take too much memory.
                for start in range(0, len(values), _JSON_ROWS):
                    part = _json(values[start : start + _JSON_ROWS].tolist())
                    file.write((", " if start else "").encode() + part[1:-1].encode())
                file.write(b"]")
            file.write(b"}")
        file.write(b"}\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Read what ``save`` wrote; columns that are not there get missing values.

        Raises:
            ResultsError: the file is missing, not a record, or has values that can't be stored.
            NewerResultsError: written by a newer stratbench.
        """
        try:
            with open_regular(path) as file:
                text = file.read()
        except OSError as error:
            raise ResultsError(
                f"A run's record must be a readable file. Received: {shown(path)}: {why(error)}"
            ) from error
        try:
            content = _parse(text)
            if content["schema_version"] > schema.SCHEMA_VERSION:
                raise NewerResultsError(
                    f"A record's schema must be at most {schema.SCHEMA_VERSION}. "
                    f"Received: {shown(path)} with schema {checked.short(content['schema_version'])}. "
                    "Upgrade stratbench, or choose another --output."
                )
            return _checked(_LATER | content)
        except (ValueError, KeyError, RecursionError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ResultsError(
                f"A run's record must be as stratbench wrote it. Received: {shown(path)}: {' '.join(str(what).split())}"
            ) from error


def _parse(text: bytes) -> dict[str, Any]:
    content = json.loads(text, parse_constant=checked.no_constant)
    version = content.get("schema_version") if isinstance(content, dict) else None
    # A bool is an int to Python.
    if type(version) is not int or version < 1:
        raise ValueError("schema_version must be an integer, at least 1")
    return content


def _checked(content: Mapping[str, Any]) -> Record:
    """The record from the JSON. Raises ValueError or KeyError."""
    found = Record(
        run=checked.row("runs", content["run"]),
        epochs=_rows("epochs", content["epochs"]),
        metrics=_rows("metrics", content["metrics"]),
        tasks=_rows("tasks", content["tasks"]),
        staleness=_rows("staleness", content["staleness"]),
        steps=checked.columns("steps", content["steps"]),
        updates=checked.columns("updates", content["updates"]),
    )
    checked.runs(found.columns("runs"))
    for table in (*_ROWS, *_ARRAYS):
        checked.belongs(found.columns(table), found.run_id)
    return found


def _rows(table: str, rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise ValueError(f"{table} must be a list of rows")
    return [checked.row(table, row) for row in rows]


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return json_cell(value)


def canonical(value: Any) -> str:
    """As JSON, the same text for the same value: of the columns ``options`` and ``spec``, and for a run's name."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


_NO_WORK = ("repeat", "timeout", "data_file", "save_model")
"""Fields that don't change what is measured."""
_NEWER = {
    **{"lr_schedule": "constant", "model_digest": "", "data_digest": ""},
    **{"precision": "", "jit": "", "class_weight": "", "evaluate_every": "", "profile": 0},
}
"""Fields that earlier specs don't have, with the value that they had by default."""


def run_id(spec: Mapping[str, Any]) -> str:
    """The name of a run, the same for the same spec on any machine and in any version.

    It is ``<strategy>-n<replicas>-<digest>-r<repeat>``. The digest is the first ten hexadecimal digits of the SHA-256
    of the spec without what does not change the work (`_NO_WORK`), as JSON with sorted keys, no spaces, ASCII only.
    So the names of a spec's repeats differ only in their ending. Fields that are newer than a run (`_NEWER`) don't
    change its name.
    """
    content = {name: value for name, value in spec.items() if name not in _NO_WORK and _NEWER.get(name, spec) != value}
    digest = hashlib.sha256(canonical(content).encode()).hexdigest()[:10]
    return f"{spec['strategy']}-n{spec['replicas']}-{digest}-r{spec['repeat']}"


def strategy_title(strategy: str, options: Mapping[str, Any]) -> str:
    """``ps sync=true``: as flags and TOML files have it."""
    return " ".join([strategy, *(f"{name}={json.dumps(value).strip(chr(34))}" for name, value in options.items())])


def without_repeat(run_id: str) -> str:
    """What the names of a spec's repeats have in common."""
    return run_id.rpartition("-r")[0]


def build(
    *,
    spec: Mapping[str, Any],
    run_id: str,
    status: str,
    reason: str,
    logs: Sequence[TaskLog],
    outcomes: Mapping[str, str],
    started: float,
    finished: float,
    environment: Mapping[str, Any],
    losses: Sequence[faults.Loss] = (),
    input: str = "",
    beside: machine.Beside | None = None,
) -> Record:
    """Build a run's record from its journals; the figures are defined in ``measure``.

    Args:
        spec: the run's spec, as plain JSON values.
        run_id: as ``run_id`` names it.
        status: one of ``schema.STATUSES``.
        reason: why the status isn't ok; empty if it is.
        logs: the tasks' journals; none for a skipped run. Their warm-up is extended: see `warmup`.
        outcomes: task label (``worker-0``) → how the task ended; for other tasks, their journal says it.
        started: launch, in Unix seconds.
        finished: when the last task had ended, in Unix seconds.
        environment: as ``environment.capture`` gives it; versions that rank 0 reported replace its own.
        losses: the tasks that died, as the launcher noticed them.
        input: type and scale of the examples that the model sees.
        beside: what was measured of the machine while it trained.

    Raises:
        ValueError: the status isn't one of ``schema.STATUSES``.
    """
    if status not in schema.STATUSES:
        raise ValueError(f"A run's status must be one of {schema.STATUSES}. Received: {status!r}")
    warmup.extend(logs)
    parts = split.of(logs)
    tasks = _tasks(run_id, parts, outcomes)
    run = schema.row(
        "runs",
        {
            "run_id": run_id,
            "status": status,
            "reason": reason,
            **_spec_columns(spec),
            "input": input,
            "started_at": datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
            "total_seconds": finished - started,
            "tasks": len(tasks),
            **measure.run(logs, started),
            **split.run(parts),
            **exchange.bandwidth(logs, split.communicating_seconds(parts)),
            **equal_work.run(logs, measure.rank_zero(logs)),
            "profiles": f"runs/{run_id}/{PROFILES}" if any((log.ready or {}).get("profiled") for log in logs) else "",
            **faults.run(spec.get("inject", ()), status, logs, losses),
            "oversubscribed": measure.oversubscribed(logs, spec["cores_per_replica"]),
            **machine.run(beside, logs),
            **environment,
            **_versions(logs),
        },
    )
    return Record(
        run=run,
        epochs=[schema.row("epochs", {"run_id": run_id, **row}) for row in measure.epochs(logs)],
        metrics=[
            schema.row("metrics", {"run_id": run_id, **row}) for row in quality.rows(logs, measure.rank_zero(logs))
        ],
        tasks=tasks,
        staleness=_staleness(run_id, logs),
        steps=_arrays("steps", run_id, logs, [each.columns for each in parts]),
        updates=_arrays("updates", run_id, logs, [{}] * len(logs)),
    )


def _spec_columns(spec: Mapping[str, Any]) -> dict[str, Any]:
    names = {column.name for column in schema.TABLES["runs"]}
    columns = {name: value for name, value in spec.items() if name in names and name != "inject"}
    return columns | {"options": canonical(spec["options"]), "spec": canonical(spec)}


def _versions(logs: Sequence[TaskLog]) -> dict[str, Any]:
    """The versions that the workers loaded. The parent can only look up what is installed."""
    first = measure.rank_zero(logs)
    versions = (first.ready or {}).get("versions", {}) if first else {}
    names = {column.name for column in schema.ENVIRONMENT}
    return {name: version for name, version in versions.items() if name in names}


def _split(label: str) -> tuple[str, int]:
    role, _, index = label.rpartition("-")
    return role, int(index)


def _tasks(run_id: str, parts: Sequence[split.Steps], outcomes: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = {each.log.label: measure.task(each.log) | each.sums() for each in parts}
    for label, outcome in outcomes.items():
        rows.setdefault(label, {})["outcome"] = outcome
    return [
        schema.row("tasks", {"run_id": run_id, "role": role, "task": index, **rows[label]})
        for label, (role, index) in sorted(((label, _split(label)) for label in rows), key=lambda pair: pair[1])
    ]


def _staleness(run_id: str, logs: Sequence[TaskLog]) -> list[dict[str, Any]]:
    return [
        schema.row("staleness", {"run_id": run_id, "role": role, "task": index, **row})
        for log, (role, index) in ((log, _split(log.label)) for log in logs)
        for row in exchange.staleness(log)
    ]


def _arrays(table: str, run_id: str, logs: Sequence[TaskLog], more: Sequence[Mapping[str, np.ndarray]]) -> Columns:
    """From the journals' arrays of that name, and ``more`` columns of each log, which take their place."""
    arrays = [getattr(log, table) for log in logs]
    counts = [len(array) for array in arrays]
    roles, indices = zip(*(_split(log.label) for log in logs), strict=True) if logs else ((), ())
    return {
        "run_id": _repeated([run_id], [sum(counts)], object),
        "role": _repeated(roles, counts, object),
        "task": _repeated(indices, counts, np.int64),
        **{
            column.name: _joined([column.missing(0), *_parts(column.name, arrays, more)])
            for column in schema.TABLES[table]
            if column.name not in ("run_id", "role", "task")
        },
    }


def _repeated(values: Sequence[Any], counts: Sequence[int], kind: Any) -> np.ndarray:
    """Each value as often as its count says. A single one takes no memory for its copies."""
    each = np.array(values, dtype=kind)
    return np.broadcast_to(each, counts[0]) if len(counts) == 1 else np.repeat(each, counts)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One after the other; a single one that has rows is not copied."""
    filled = [part for part in parts if len(part)]
    alike = len(filled) == 1 and filled[0].dtype == parts[0].dtype
    return filled[0] if alike else np.concatenate(parts)


def _parts(name: str, arrays: Sequence[np.ndarray], more: Sequence[Mapping[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """A column of each log."""
    for array, others in zip(arrays, more, strict=True):
        yield others[name] if name in others else array[name]
