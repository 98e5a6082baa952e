"""Where the seconds of steps went: input, computing, communicating, waiting for others, and the rest.

A task tells how long a step computed and how long it was in exchanges; see ``strategies.trainer.Split``. It can't tell
how long it waited there for workers that were not ready yet. Those of one host have one clock, so the moments at which
they were ready are compared here: a worker waited until the last one was ready, or less if its own exchange was over by
then.

Nothing here is estimated: all moments are those of the steps themselves. What is left of a step is the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .journal import TaskLog

PARTS = ("computing", "communicating", "waiting", "input")
_MORE = 0.10
"""By which a straggler computes longer than the median of the others, at least."""
_OFTEN = 0.5
"""Share of the steps in which a straggler is ready last, at least, where that is known."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """Of one task.

    Attributes:
        log: its journal.
        columns: seconds of each of its steps, by column of the steps table; NaN where they are not known.
        last: when the last worker was ready, in each of these steps; NaN where that is not known.
    """

    log: TaskLog
    columns: dict[str, np.ndarray]
    last: np.ndarray

    def sums(self) -> dict[str, float]:
        """Over its measured steps, and how often it was ready last; columns of the tasks table."""
        measured = ~self.log.steps["warmup"]
        seconds = self.columns | {"input_seconds": self.log.steps["input_seconds"]}
        compared = measured & np.isfinite(self.last)
        was_last = (self.log.steps["ready_at"] == self.last)[compared]
        return {name: _sum(values[measured]) for name, values in seconds.items()} | {
            "last_share": float(was_last.mean()) if len(was_last) else math.nan
        }


def of(logs: Sequence[TaskLog]) -> list[Steps]:
    """Of each log."""
    found = []
    for log, last in zip(logs, _lasts(logs), strict=True):
        exchange = log.steps["communicating_seconds"]
        for_others = np.nan_to_num(np.clip(last - log.steps["ready_at"], 0.0, exchange))
        columns = {
            "computing_seconds": log.steps["computing_seconds"],
            "communicating_seconds": exchange - for_others,
            "waiting_seconds": log.steps["waiting_seconds"] + for_others,
        }
        found.append(Steps(log, columns, last))
    return found


def run(tasks: Sequence[Steps]) -> dict[str, Any]:
    """The columns of the runs table: shares of all tasks' measured steps, and who was slower than the others."""
    stepped = [(each.log, each.sums()) for each in tasks if len(each.log.steps)]
    seconds = sum(float(log.steps["step_seconds"][~log.steps["warmup"]].sum()) for log, _ in stepped)
    shares = {
        f"{part}_share": sum(sums[f"{part}_seconds"] for _, sums in stepped) / seconds if seconds else math.nan
        for part in PARTS
    }
    return shares | {"straggler": _straggler(stepped)}


def communicating_seconds(tasks: Sequence[Steps]) -> float:
    """Of a measured step, over all tasks; NaN if it is not known."""
    found = [each.columns["communicating_seconds"][~each.log.steps["warmup"]] for each in tasks]
    steps = sum(map(len, found))
    return sum(map(_sum, filter(len, found))) / steps if steps else math.nan


def _lasts(logs: Sequence[TaskLog]) -> list[np.ndarray]:
    """Of each log: when the last worker was ready, in each of its steps; NaN where that can't be compared."""
    unknown = [np.full(len(log.steps), math.nan) for log in logs]
    workers = [log for log in logs if len(log.steps)]
    hosts = {(log.start or {}).get("host") for log in workers}
    # After a restart, the steps of one number are not the same one.
    again = any(len(log.starts) > 1 or log.restored for log in workers)
    if len(workers) < 2 or len(hosts) > 1 or again:
        return unknown
    steps = np.concatenate([log.steps["step"] for log in workers])
    moments = np.concatenate([log.steps["ready_at"] for log in workers])
    numbers, places = np.unique(steps, return_inverse=True)
    last = np.full(len(numbers), -math.inf)
    np.maximum.at(last, places, np.where(np.isnan(moments), -math.inf, moments))
    counts = np.bincount(places, weights=~np.isnan(moments), minlength=len(numbers))
    last[counts < len(workers)] = math.nan
    return [last[np.searchsorted(numbers, log.steps["step"])] for log in logs]


def _sum(values: np.ndarray) -> float:
    return float(values.sum()) if len(values) else math.nan


def _straggler(tasks: Sequence[tuple[TaskLog, dict[str, Any]]]) -> str:
    """The worker that computed longest in a step, if that was much longer than the others did."""
    means = [task["computing_seconds"] / max(int((~log.steps["warmup"]).sum()), 1) for log, task in tasks]
    if len(means) < 2 or not all(map(math.isfinite, means)):
        return ""
    slowest = int(np.argmax(means))
    others = float(np.median(means[:slowest] + means[slowest + 1 :]))
    log, task = tasks[slowest]
    more, often = means[slowest] / others - 1 if others else 0.0, task["last_share"]
    if more < _MORE or often < _OFTEN:
        return ""
    last = "" if math.isnan(often) else f", last in {100 * often:.0f} % of the steps"
    return f"{log.label} computes {100 * more:.0f} % longer than the others{last}"
