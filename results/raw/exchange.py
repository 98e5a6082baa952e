"""What the tasks of a run exchanged: updates of shared weights, with their staleness, and bytes.

- Updates are counted where their order matters, by the tasks that hold the weights. Elsewhere there are none, and the
  figures are missing, not 0. Only applied updates have a staleness: a dropped one changed nothing.
- Traffic is that of the workers, sent plus received. So a transfer from one worker to another counts twice, in the
  expected traffic and in the measured one. The traffic of ps tasks is the other end of the same connections.
- An epoch has traffic if every worker has ended it. It is measured only if the traffic of every worker is known: a sum
  over some workers would look like the sum over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .journal import TaskLog

_TRAFFIC = ("traffic_bytes_expected", "traffic_bytes_measured")


def updates(logs: Sequence[TaskLog]) -> dict[str, Any]:
    """The columns about updates in the runs and the tasks table; none if no update was counted."""
    pushed = sum(len(log.updates) for log in logs)
    if not pushed:
        return {}
    applied = sum(int(log.updates["applied"].sum()) for log in logs)
    return {
        "updates_applied": applied,
        "updates_dropped": pushed - applied,
        "blocked_seconds": sum(float(log.updates["blocked_seconds"].sum()) for log in logs),
    }


def staleness(log: TaskLog) -> list[dict[str, int]]:
    """The task's histogram: one row for each staleness of an applied update; columns of the staleness table."""
    values, counts = np.unique(_staleness(log), return_counts=True)
    rows = zip(values.tolist(), counts.tolist(), strict=True)
    return [{"staleness": value, "updates": count} for value, count in rows]


def run(logs: Sequence[TaskLog]) -> dict[str, Any]:
    """The columns of the runs table about updates and traffic; units as in ``schema``."""
    stale = np.concatenate([np.empty(0, "i8"), *map(_staleness, logs)])
    epochs = traffic(logs)
    # If the others continued without a worker, the sum over some epochs would look like the sum over all.
    partial = any(event["epoch"] not in epochs for log in logs if log.end for event in log.epochs)
    moved = [] if partial else epochs.values()
    return {
        **updates(logs),
        "staleness_mean": float(stale.mean()) if len(stale) else math.nan,
        "staleness_max": int(stale.max()) if len(stale) else math.nan,
        **{name: sum(row[name] for row in moved) if moved else math.nan for name in _TRAFFIC},
    }


def _staleness(log: TaskLog) -> np.ndarray:
    return log.updates["staleness"][log.updates["applied"]]


def traffic(logs: Sequence[TaskLog]) -> dict[int, dict[str, float]]:
    """Epoch → the traffic columns of the epochs table, for the epochs that every worker ended."""
    # A task that died before it could say what it is counts as a worker: it has ended no epoch.
    workers = [log for log in logs if not log.start or log.start["role"] == "worker"]
    if not workers:
        return {}
    ended = [{event["epoch"]: event for event in log.epochs} for log in workers]
    step_bytes = _known((workers[0].ready or {}).get("traffic_bytes"))
    return {
        epoch: {
            "traffic_bytes_expected": step_bytes * _known(ended[0][epoch].get("steps")),
            "traffic_bytes_measured": sum(_moved(events[epoch]) for events in ended),
        }
        for epoch in sorted(set.intersection(*map(set, ended)))
    }


def bandwidth(logs: Sequence[TaskLog], seconds: float) -> dict[str, float]:
    """The columns of the runs table about what was all-reduced; none if nothing was, or if it is not known.

    Args:
        seconds: for which a step communicated, over the steps of all tasks.
    """
    workers = [log for log in logs if log.ready and log.start and log.start["role"] == "worker"]
    replicas = sum(log.start["replicas"] for log in logs if log.start)
    reduced = _known((workers[0].ready or {}).get("reduced_bytes")) if workers else math.nan
    if not reduced > 0 or not seconds > 0 or replicas < 2:
        return {}
    rate = reduced / seconds
    return {"algbw_bytes_per_second": rate, "busbw_bytes_per_second": rate * 2 * (replicas - 1) / replicas}


def _moved(event: dict[str, Any]) -> float:
    return _known(event.get("sent_bytes")) + _known(event.get("received_bytes"))


def _known(value: float | None) -> float:
    return math.nan if value is None else value
