"""Where the warm-up of a run ends: when its steps take as long as they do later.

A worker marks the steps that trace and compile (`stratbench.harness.plan.bounds.WARMUP_STEPS`). Caches, allocators and
a processor's frequency may take longer to settle. So the marks are extended, as long as five steps in a row take in the
median over 10 % more than those of the second half of the run; at most over a quarter of the steps, as a run that
becomes faster to its end has no stationary part to find.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .journal import TaskLog

_WINDOW = 5
_MORE = 1.10
_LEAST_STEPS = 40
"""Of fewer, chance moves a median of five too much, and too few would be left."""


def extend(logs: Sequence[TaskLog]) -> None:
    """Mark the steps before the end of the warm-up in each task's log. It is the latest of all tasks, for all."""
    workers = [log for log in logs if len(log.steps)]
    if any(len(log.starts) > 1 for log in workers):
        # A task that was started again has a warm-up of its own, amid the steps of others.
        return
    end = max((_end(log) for log in workers), default=0)
    for log in workers:
        log.steps["warmup"] |= log.steps["step"] < end


def _end(log: TaskLog) -> int:
    """Number of the first step after the warm-up, by this task's times."""
    rows = np.flatnonzero(~log.steps["warmup"])
    seconds = log.steps["step_seconds"][rows]
    if len(rows) < _LEAST_STEPS:
        return 0
    later = float(np.median(seconds[len(rows) // 2 :]))
    most = len(rows) // 4
    windows = np.lib.stride_tricks.sliding_window_view(seconds[: most + _WINDOW], _WINDOW)
    settled = np.flatnonzero(np.median(windows, axis=1) <= _MORE * later)
    return int(log.steps["step"][rows[min(int(settled[0]), most) if len(settled) else most]])
