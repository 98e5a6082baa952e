"""What the injected faults did, and which tasks died by themselves, from the journals and the launcher.

- A death is noticed when the launcher detects it. The seconds count from the injection, whose time is in a journal.
- Lost steps are the workers' steps that a run had to do and that are in no journal, and the steps that a ps task's
  restoration from a checkpoint undid. They are counted only in a run that continued after a death: a run that a death
  ended lost all its steps.
- Down is the time from an injection until the affected task was ready again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import measure
from .journal import TaskLog

Loss = Mapping[str, Any]
"""Of a task that died: label, how, noticed (Unix seconds), reaction (in words)."""


def run(inject: Sequence[str], status: str, logs: Sequence[TaskLog], losses: Sequence[Loss]) -> dict[str, Any]:
    """The columns of the runs table about faults; units as in ``schema``."""
    injected = {event["fault"]: event for log in logs for event in log.injected}
    undone = [event for log in logs for event in log.restored]
    columns: dict[str, Any] = {
        "inject": " ".join(inject),
        "fault": "; ".join([*_slowed(logs), *_paused(injected), *_lost(injected, losses), *_restored(undone)]),
        "noticed_seconds": next(filter(_known, (_noticed(loss, injected) for loss in losses)), math.nan),
    }
    never = [text for text in inject if not text.startswith("slow") and text not in injected]
    if never:
        columns["fault"] = "; ".join(filter(None, [columns["fault"], f"not injected: {' '.join(never)}"]))
    if status == "ok" and (losses or undone):
        workers = [log for log in logs if log.start and log.start["role"] == "worker"]
        wanted = len(workers) * max((log.ready["total_steps"] for log in workers if log.ready), default=0)
        # A step that a restarted worker did twice counts once. With backup workers, steps are skipped without a death.
        dead = [log for log in workers if log.label in {loss["label"] for loss in losses}]
        missing = wanted // max(1, len(workers)) * len(dead) - sum(len(np.unique(log.steps["step"])) for log in dead)
        columns["lost_steps"] = lost = missing + sum(event["steps"] for event in undone)
        columns["lost_share"] = lost / wanted if wanted else math.nan
        columns["examples_per_second"] = _rate(workers, losses, injected)
        down = [_down(loss, injected, logs) for loss in losses] + [event["seconds"] for event in undone]
        columns["down_seconds"] = max(filter(_known, down), default=math.nan)
    return columns


def _slowed(logs: Sequence[TaskLog]) -> list[str]:
    seconds = {log.label: log.end.get("injected_seconds") for log in logs if log.end}
    return [f"{label} slowed by {slept:.1f} s in all" for label, slept in seconds.items() if slept is not None]


def _paused(injected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{text} injected" for text, event in injected.items() if event["kind"] == "pause"]


def _lost(injected: Mapping[str, Mapping[str, Any]], losses: Sequence[Loss]) -> list[str]:
    lines = []
    # If an injection killed a task, the deaths that follow from it are not listed.
    for loss in [loss for loss in losses if _injection(loss, injected)] or losses:
        event = _injection(loss, injected)
        when = f" before step {event['step']}, noticed after {_noticed(loss, injected):.2f} s" if event else ""
        was = "ended with" if loss["how"].startswith("exit") else "was"
        lines.append(f"{loss['label']} {was} {loss['how']}{when}; {loss['reaction']}")
    return lines


def _restored(undone: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"went on from update {event['update']} after {event['seconds']:.1f} s, {event['steps']} steps undone"
        for event in undone
        if event["by_this"]
    ]


def _injection(loss: Loss, injected: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The injection that killed the task: the last one before the death was noticed; None if it died by itself."""
    kills = [event for event in injected.values() if (event["kind"], event["task"]) == ("kill", loss["label"])]
    before = [event for event in kills if event["time"] <= loss["noticed"]]
    return max(before, key=lambda event: event["time"], default=None)


def _noticed(loss: Loss, injected: Mapping[str, Mapping[str, Any]]) -> float:
    event = _injection(loss, injected)
    return loss["noticed"] - event["time"] if event else math.nan


def _down(loss: Loss, injected: Mapping[str, Mapping[str, Any]], logs: Sequence[TaskLog]) -> float:
    """Seconds until the task was ready again; NaN if it was not started again."""
    readies = [ready["time"] for log in logs if log.label == loss["label"] for ready in log.readies]
    event = _injection(loss, injected)
    ready = next((time for time in readies if time > loss["noticed"]), math.nan)
    return ready - (event["time"] if event else loss["noticed"])


def _rate(workers: Sequence[TaskLog], losses: Sequence[Loss], injected: Mapping[str, Mapping[str, Any]]) -> float:
    """Measured examples of all workers divided by the time of the slowest one, with the time that it was down.

    The sum of the workers' own rates would count a dead worker as if it had continued.
    """
    seconds, examples = [], 0
    for log in workers:
        examples += int(measure.measured(log, "examples").sum())
        away = [_down(loss, injected, workers) for loss in losses if loss["label"] == log.label]
        seconds.append(float(measure.measured(log, "step_seconds").sum()) + sum(filter(_known, away)))
    return examples / max(seconds) if any(seconds) else math.nan


def _known(value: float) -> bool:
    return not math.isnan(value)
