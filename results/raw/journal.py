"""A task's journal: one JSON line per event, written while the task runs, and readable if the task dies.

Every task of a run writes its own file, ``<role>-<index>.jsonl``; no other process writes to it. The events:

==========  ====================================================================================
start       pid, created (Unix seconds), start_method (forked, or fresh with the reason), host, role, index, rank,
            cores (list of int), replicas, attempt
ready       parameters, unused (text), versions (dict), memory (dict or null), activation_bytes (or null),
            tokens_per_example (or null), compiled (bool: by XLA), traffic_bytes: expected of all workers in a
            step; reduced_bytes: all-reduced in a step, or null if that is not known; notes: {column of runs: value}
            of the strategy's own; total_examples: that all are to read; set_examples: {train, validation, test: how
            many there are}; initial_weights (digits); initial_sums: see ``updated``; profiled (bool); written just
            before the first step
updated     sums: of each weight (0 if it is not trained, null if another task holds it), as
            ``harness.worker.first_update`` defines it; after the first update of the run
serving     memory (dict or null); instead of ready, from a task that only serves
steps       rows, each in the order of ``STEP_FIELDS``
updates     rows, each in the order of ``UPDATE_FIELDS``
epoch       epoch, seconds, sent_bytes, received_bytes (null if unknown); logs: {name: mean value} of a model's own
            train_step; figures: {column of epochs: value} of the strategy's own; read: examples, digest, and in
            the first epoch seen, as ``datasets._arrays.order.Order.told`` gives them; after its last step
trained     involuntary_switches: how often the kernel took a core from it since ready; updates_skipped, or null;
            figures: as notes, of what was measured; after its last step
evaluation  epoch, step: steps done; validation: {name: value} of the loss and all metrics; test and train, on the last,
            the same
work        flops_per_example, or null; final_weights (digits)
failed      error (one line), step (int or null)
end         peak_rss_bytes, cpu_seconds; sent_bytes and received_bytes of the whole task, or null;
            injected_seconds: how much longer --inject made its steps, or null; gpu_peak_bytes, or null
injected    fault (in the form of --inject), kind, task (the affected one: this one or a ps task), step
restored    update, steps, seconds, by_this (bool): this worker continued after a death, with the weights of
            that update, so its last ``steps`` steps are undone. by_this: this event counts for all workers
==========  ====================================================================================

Every event also has ``time``, in Unix seconds, and may have more fields. ``read`` ignores other events, which are for
a `Follower`. Losses may be NaN or infinite: this is JSON as Python writes it.
"""

from __future__ import annotations

import json
import math
import operator
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ResultsError

if TYPE_CHECKING:
    import numpy as np

FLUSH_SECONDS = 0.25

PROFILES = "profile"
"""The folder beside the journals with what was recorded with ``--profile``."""

STEP_FIELDS = {
    "epoch": "i8",
    "step": "i8",
    "step_seconds": "f8",
    "input_seconds": "f8",
    "examples": "i8",
    "loss": "f8",
    "warmup": "?",
    "computing_seconds": "f8",
    "communicating_seconds": "f8",
    "waiting_seconds": "f8",
    "ready_at": "f8",
}
"""Of a step. The last four are as in ``strategies.trainer.Split``, and NaN where they are not known."""

UNKNOWN = (math.nan,) * 4

UPDATE_FIELDS = {
    "step": "i8",
    "update": "i8",
    "fetched": "i8",
    "staleness": "i8",
    "clock": "i8",
    "slowest_clock": "f8",
    "blocked_seconds": "f8",
    "applied": "?",
}
"""Of an update that a step pushed to shared weights. Their meaning is that of the updates table's columns."""


class Journal:
    """Writes one task's journal; meant for use inside the measured loop.

    A file from an earlier attempt at the same run is replaced, unless the task continues it. Every line is written in
    one call, so after a kill at most the last line is incomplete.

    Args:
        path: the file, by convention ``<role>-<index>.jsonl`` in the run's folder.
        append: whether this task was started again in the same run.

    Raises:
        ResultsError: the file can't be created or, from any method, written.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = Path(path)
        self._rows: dict[str, list[tuple[Any, ...]]] = {"steps": [], "updates": []}
        self._due = 0.0
        try:
            self._file = self.path.open("ab" if append else "wb", buffering=0)
            if append:
                # Ends a line that is incomplete after a kill.
                self._file.write(b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def step(
        self,
        epoch: int,
        step: int,
        step_seconds: float,
        input_seconds: float,
        examples: int,
        loss: float | None,
        warmup: bool,
        now: float,
        split: tuple[float, float, float, float] = UNKNOWN,
    ) -> None:
        """Record one step; writes to the file at most every ``FLUSH_SECONDS``.

        Args:
            epoch: counted from 0.
            step: counted from 0 over the whole run, not per epoch.
            step_seconds: from the end of the previous step (or the epoch's start) to the end of this one.
            input_seconds: the part of it in which the task waited for data.
            examples: how many examples this task used.
            loss: their mean loss, None without examples; numpy scalars are only converted when they are written.
            warmup: whether rates and quantiles leave this step out.
            now: seconds of a monotonic clock that the caller has read anyway.
            split: the last four of ``STEP_FIELDS``.
        """
        self._rows["steps"].append((epoch, step, step_seconds, input_seconds, examples, loss, warmup, *split))
        if now >= self._due:
            self._due = now + FLUSH_SECONDS
            self._flush()

    def update(
        self,
        step: int,
        update: int,
        fetched: int,
        staleness: int,
        clock: int,
        slowest_clock: float,
        blocked_seconds: float,
        applied: bool,
    ) -> None:
        """Record an update that a step pushed; written with the steps. Arguments as in ``UPDATE_FIELDS``."""
        row = (step, update, fetched, staleness, clock, slowest_clock, blocked_seconds, applied)
        self._rows["updates"].append(row)

    def event(self, name: str, **fields: Any) -> None:
        """Write the pending steps, then one event with these fields and the time."""
        self._flush()
        self._write({"event": name, "time": time.time(), **fields})

    def close(self) -> None:
        """Write the pending steps and close the file."""
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        for name, rows in self._rows.items():
            if rows:
                self._rows[name] = []
                self._write({"event": name, "time": time.time(), "rows": rows})

    def _write(self, event: dict[str, Any]) -> None:
        line = memoryview((json.dumps(event, default=operator.methodcaller("item")) + "\n").encode())
        try:
            # An unbuffered write may write less than asked, as on a disk that is almost full.
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ResultsError:
        return ResultsError(f"A task's journal must be writable. Received: {self.path}: {error.strerror}")


@dataclass
class TaskLog:
    """What one task wrote to its journal, up to its end.

    ``label`` is the file's stem, as in ``worker-0``. ``steps`` is a structured array with the fields of
    ``STEP_FIELDS``, one element per step: ``len(log.steps)`` counts them, ``log.steps["loss"]`` is a column.
    ``updates`` is the same with ``UPDATE_FIELDS``, one element per update pushed.
    The other attributes are the events as written, or None if the task never wrote one.
    """

    label: str
    steps: np.ndarray
    updates: np.ndarray
    starts: list[dict[str, Any]] = field(default_factory=list)
    readies: list[dict[str, Any]] = field(default_factory=list)
    injected: list[dict[str, Any]] = field(default_factory=list)
    restored: list[dict[str, Any]] = field(default_factory=list)
    start: dict[str, Any] | None = None
    ready: dict[str, Any] | None = None
    serving: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    updated: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    work: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    last_time: float | None = None


def read(path: str | os.PathLike[str]) -> TaskLog:
    """Read a whole journal. A missing or incomplete file gives the events that are there.

    Seconds and losses of steps and updates are rounded: see `digits`.
    """
    # NumPy is needed only here, in the parent: other processes import this module without it.
    import numpy as np

    path = Path(path)
    kinds = {"steps": np.dtype(list(STEP_FIELDS.items())), "updates": np.dtype(list(UPDATE_FIELDS.items()))}
    # They grow in place: to put a million rows together in the end would take their memory twice.
    rows = {name: bytearray() for name in kinds}
    log = TaskLog(path.stem, steps=np.empty(0, kinds["steps"]), updates=np.empty(0, kinds["updates"]))
    for event in _events(path):
        log.last_time = event["time"]
        match event["event"]:
            case "steps" | "updates" as name:
                rows[name] += np.array([tuple(row) for row in event["rows"]], kinds[name]).tobytes()
            case "epoch":
                log.epochs.append(event)
            case "evaluation":
                log.evaluations.append(event)
            case "injected":
                log.injected.append(event)
            case "restored":
                log.restored.append(event)
            case "start" | "ready" | "serving" | "updated" | "trained" | "work" | "failed" | "end" as name:
                setattr(log, name, event)
                if name == "start":
                    log.starts.append(event)
                if name in ("ready", "serving"):
                    log.readies.append(event)
    log.steps, log.updates = (_rounded(np.frombuffer(rows[name], kind)) for name, kind in kinds.items())
    return log


def _rounded(rows: np.ndarray) -> np.ndarray:
    """The same array, rounded in place."""
    from . import digits

    for name in rows.dtype.names or ():
        if name.endswith("_seconds"):
            rows[name] = digits.of_seconds(rows[name])
        elif name == "loss":
            rows[name] = digits.of_losses(rows[name])
    return rows


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                if event := _parse(line):
                    yield event
    except FileNotFoundError:
        return


def _parse(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None for an incomplete line."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and {"event", "time"} <= event.keys() else None


class Follower:
    """Reads a journal while its task writes it, for live progress."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._offset = 0

    def poll(self) -> list[dict[str, Any]]:
        """The complete events written since the last call; none while the file does not exist yet."""
        try:
            with self.path.open("rb") as file:
                # A file that became shorter is from a new attempt.
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line))]
