"""Marks for doubtful figures, in the table and below it: few runs, a busy machine, more than 100% efficiency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..analysis.bases import Row
from ..analysis.intervals import LEAST_RUNS

_NOTICEABLE = 1.005
"""From this efficiency on, the table shows more than 100%."""


def rate_mark(row: Row) -> str:
    """The mark before the row's rate."""
    return "*" if row["disturbed"] else ""


def speedup_mark(row: Row) -> str:
    """The marks before the row's speed-up and efficiency. The base's own are always 1, so they have none."""
    if math.isnan(row["speedup"]) or row["is_base"]:
        return ""
    busy = row["disturbed"] or row["base_disturbed"]
    return ("*" if busy else "") + ("~" if math.isnan(row["speedup_low"]) else "")


def captions(rows: Sequence[Row]) -> list[str]:
    """What the marks in the table mean, and how rates of repeats are computed."""
    marks = {mark for row in rows for mark in rate_mark(row) + speedup_mark(row)}
    lines = []
    lines += _methods(rows)
    if any("~" in mark for mark in marks):
        lines.append(
            f"~ rests on fewer than {LEAST_RUNS} runs: some of it may be chance; --repeats {LEAST_RUNS} or more tells"
        )
    if any("*" in mark for mark in marks):
        lines.append("* measured on a busy machine, or against a base that was")
    slowed = {row["base"]: row["base_disturbed"] for row in rows if row["base_disturbed"] and not row["is_base"]}
    lines += [f"the base {base} may be too slow, and speed-ups too high: {why}" for base, why in slowed.items()]
    return lines


def _methods(rows: Sequence[Row]) -> list[str]:
    """How rates of repeats and their intervals are computed."""
    if all(row["ok"] < 2 for row in rows):
        return []
    words = ["rates are geometric means over the runs"]
    if any(not math.isnan(row["examples_per_second_low"]) for row in rows):
        words.append("95 % intervals by Student's t")
    if any(row["by_rounds"] for row in rows):
        words.append("speed-ups are taken in each round of runs")
    return ["; ".join(words)]


def remarks(row: Row, name: str) -> list[str]:
    """What disturbed the row's runs, and an efficiency that needs an explanation."""
    lines = []
    if row["disturbed"]:
        share = f" in {row['disturbed_runs']} of {row['ok']} runs, such as" if row["ok"] > 1 else ""
        lines.append(f"{name} busy{share}: {row['disturbed']}")
    if row["efficiency"] > _NOTICEABLE and row["replicas"] > row["base_replicas"]:
        lines.append(f"{name}: efficiency above 100% is more than added replicas explain; repeat it and its base")
    return lines
