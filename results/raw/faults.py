"""What came of the faults that were injected, and of tasks that died by themselves, from journals and the launcher.

- A death is noticed when the launcher knows of it; the seconds count from the injection, which its journal tells.
- Lost are the workers' steps that a run had to do and that are in no journal, and those that a ps task's restoration
  from a checkpoint undid. Only a run that got over a death has lost steps: of one that ended by it, all are.
- Down is the time from an injection until the task that it struck was ready again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .journal import TaskLog

Loss = Mapping[str, Any]
"""label, how, noticed (Unix seconds), reaction (in words) of a task that died."""


def run(inject: Sequence[str], status: str, logs: Sequence[TaskLog], losses: Sequence[Loss]) -> dict[str, Any]:
    """The columns on faults of the runs table; units as in ``schema``."""
    struck = {event["fault"]: event for log in logs for event in log.injected}
    undone = [event for log in logs for event in log.restored]
    columns: dict[str, Any] = {
        "inject": " ".join(inject),
        "fault": "; ".join([*_slowed(logs), *_paused(struck), *_lost(struck, losses), *_restored(undone)]),
        "noticed_seconds": next(filter(_known, (_noticed(loss, struck) for loss in losses)), math.nan),
    }
    never = [text for text in inject if not text.startswith("slow") and text not in struck]
    if never:
        columns["fault"] = "; ".join(filter(None, [columns["fault"], f"never due: {' '.join(never)}"]))
    if status == "ok" and (losses or undone):
        workers = [log for log in logs if log.start and log.start["role"] == "worker"]
        wanted = len(workers) * max((log.ready["total_steps"] for log in workers if log.ready), default=0)
        # A step that a restarted worker did twice counts once. Backup workers pass over steps without any death.
        dead = [log for log in workers if log.label in {loss["label"] for loss in losses}]
        missing = wanted // max(1, len(workers)) * len(dead) - sum(len(np.unique(log.steps["step"])) for log in dead)
        columns["lost_steps"] = lost = missing + sum(event["steps"] for event in undone)
        columns["lost_share"] = lost / wanted if wanted else math.nan
        columns["examples_per_second"] = _rate(workers, losses, struck)
        down = [_down(loss, struck, logs) for loss in losses] + [event["seconds"] for event in undone]
        columns["down_seconds"] = max(filter(_known, down), default=math.nan)
    return columns


def _slowed(logs: Sequence[TaskLog]) -> list[str]:
    seconds = {log.label: log.end.get("injected_seconds") for log in logs if log.end}
    return [f"{label} slowed by {slept:.1f} s in all" for label, slept in seconds.items() if slept is not None]


def _paused(struck: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{text} struck" for text, event in struck.items() if event["kind"] == "pause"]


def _lost(struck: Mapping[str, Mapping[str, Any]], losses: Sequence[Loss]) -> list[str]:
    lines = []
    # Who dies of another's death needs no mention.
    for loss in [loss for loss in losses if _injection(loss, struck)] or losses:
        event = _injection(loss, struck)
        when = f" before step {event['step']}, noticed after {_noticed(loss, struck):.2f} s" if event else ""
        was = "ended with" if loss["how"].startswith("exit") else "was"
        lines.append(f"{loss['label']} {was} {loss['how']}{when}; {loss['reaction']}")
    return lines


def _restored(undone: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"went on from update {event['update']} after {event['seconds']:.1f} s, {event['steps']} steps undone"
        for event in undone
        if event["by_this"]
    ]


def _injection(loss: Loss, struck: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What killed it: the last that was injected into it before it was noticed."""
    kills = [event for event in struck.values() if (event["kind"], event["task"]) == ("kill", loss["label"])]
    before = [event for event in kills if event["time"] <= loss["noticed"]]
    return max(before, key=lambda event: event["time"], default=None)


def _noticed(loss: Loss, struck: Mapping[str, Mapping[str, Any]]) -> float:
    event = _injection(loss, struck)
    return loss["noticed"] - event["time"] if event else math.nan


def _down(loss: Loss, struck: Mapping[str, Mapping[str, Any]], logs: Sequence[TaskLog]) -> float:
    """Until the task that was started again was ready; NaN for one that was not."""
    readies = [ready["time"] for log in logs if log.label == loss["label"] for ready in log.readies]
    event = _injection(loss, struck)
    ready = next((time for time in readies if time > loss["noticed"]), math.nan)
    return ready - (event["time"] if event else loss["noticed"])


def _rate(workers: Sequence[TaskLog], losses: Sequence[Loss], struck: Mapping[str, Mapping[str, Any]]) -> float:
    """All workers' measured examples over the time of the one that took longest, with the time that it was away.

    The sum of the workers' own rates would count one that died as if it had lived on.
    """
    seconds, examples = [], 0
    for log in workers:
        measured = log.steps[~log.steps["warmup"]]
        examples += int(measured["examples"].sum())
        away = [_down(loss, struck, workers) for loss in losses if loss["label"] == log.label]
        seconds.append(float(measured["step_seconds"].sum()) + sum(filter(_known, away)))
    return examples / max(seconds) if any(seconds) else math.nan


def _known(value: float) -> bool:
    return not math.isnan(value)
