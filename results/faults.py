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
        "noticed_seconds": min(filter(_known, (_noticed(loss, struck) for loss in losses)), default=math.nan),
    }
    never = [text for text in inject if not text.startswith("slow") and text not in struck]
    if never:
        columns["fault"] = "; ".join(filter(None, [columns["fault"], f"never due: {' '.join(never)}"]))
    if status == "ok" and (losses or undone):
        workers = [log for log in logs if log.start and log.start["replicas"]]
        wanted = len(workers) * max((log.ready["total_steps"] for log in workers if log.ready), default=0)
        # A step that a restarted worker did twice counts once.
        done = sum(len(np.unique(log.steps["step"])) for log in workers)
        columns["lost_steps"] = lost = wanted - done + sum(event["steps"] for event in undone)
        columns["lost_share"] = lost / wanted if wanted else math.nan
        down = [_down(loss, struck, logs) for loss in losses] + [event["seconds"] for event in undone]
        columns["down_seconds"] = max(filter(_known, down), default=math.nan)
    return columns


def _slowed(logs: Sequence[TaskLog]) -> list[str]:
    seconds = {log.label: log.end.get("injected_seconds") for log in logs if log.end}
    return [f"{label} slowed by {slept:.1f} s in all" for label, slept in seconds.items() if slept is not None]


def _paused(struck: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{text} struck" for text in struck if text.startswith("pause")]


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
    role, _, index = loss["label"].partition("-")
    found = (event for text, event in struck.items() if text.startswith(f"kill:{role}={index},"))
    return next(found, None)


def _noticed(loss: Loss, struck: Mapping[str, Mapping[str, Any]]) -> float:
    event = _injection(loss, struck)
    return loss["noticed"] - event["time"] if event else math.nan


def _down(loss: Loss, struck: Mapping[str, Mapping[str, Any]], logs: Sequence[TaskLog]) -> float:
    """Until the task that was started again was ready; NaN for one that was not."""
    log = next((log for log in logs if log.label == loss["label"]), None)
    ready = (log.ready or log.serving) if log and len(log.starts) > 1 else None
    event = _injection(loss, struck)
    return ready["time"] - (event["time"] if event else loss["noticed"]) if ready else math.nan


def _known(value: float) -> bool:
    return not math.isnan(value)
