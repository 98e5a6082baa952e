"""What shows that runs did the same work: their weights at first and at last, and which examples were in which step.

The order of examples is told by what the tasks have read, not by what was planned.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .journal import TaskLog


def run(logs: Sequence[TaskLog], first: TaskLog | None) -> dict[str, Any]:
    """Columns of the runs table.

    Args:
        first: the log of the task that reports for the run.
    """
    ready = (first and first.ready) or {}
    return {
        "initial_weights": ready.get("initial_weights", ""),
        "final_weights": ((first and first.work) or {}).get("final_weights", ""),
        **{f"{part}_examples": count for part, count in ready.get("set_examples", {}).items()},
        "examples_planned": ready.get("total_examples"),
        "first_update": _first_update(logs, ready),
        **_read(_epochs(logs)),
    }


def _first_update(logs: Sequence[TaskLog], ready: Mapping[str, Any]) -> float:
    """The norm of how much each weight's sum changed; NaN if that of one is not known."""
    before, told = ready.get("initial_sums") or [], [log.updated["sums"] for log in logs if log.updated]
    # Where several tasks hold a weight, they hold the same.
    after = [next((each for each in sums if each is not None), None) for sums in zip(*told, strict=True)]
    if not before or len(after) != len(before) or None in after:
        return math.nan
    return math.sqrt(sum((one - other) ** 2 for one, other in zip(after, before, strict=True)))


def _epochs(logs: Sequence[TaskLog]) -> list[dict[str, Any]]:
    """The last event of each epoch of each task that counted examples in it.

    Where several tasks compute one replica together, all of them read its examples, and one counts them.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for log in logs:
        counts = log.steps["examples"] > 0
        counted = set(log.steps["epoch"][counts].tolist())
        found |= {(log.label, each["epoch"]): each for each in log.epochs if each["epoch"] in counted}
    return [each for each in found.values() if each.get("read")]


def _read(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not epochs:
        return {}
    digest = sum(int(each["read"]["digest"], 16) for each in epochs) % 2**64
    first = [each["read"] for each in epochs if each["epoch"] == 0]
    return {
        "data_order": f"{digest:016x}",
        "examples_read": sum(each["read"]["examples"] for each in epochs),
        "first_epoch_examples": sum(each["examples"] for each in first) if first else math.nan,
        "first_epoch_distinct": _distinct([each.get("seen") for each in first]) if first else math.nan,
    }


def _distinct(seen: Sequence[str | None]) -> float:
    """How many rows at least one task read; NaN if one does not tell."""
    parts = [np.frombuffer(zlib.decompress(base64.b64decode(each)), np.uint8) for each in seen if each]
    if len(parts) < len(seen):
        return math.nan
    return float(np.unpackbits(np.bitwise_or.reduce(parts)).sum())
