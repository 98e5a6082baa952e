"""The split of a step: which share of it goes where, and in which part of it two rows differ.

The parts add up to the step, so those of an example add up to the time of one: 1/rate = Σ share/rate. A change of the
rate is then the sum of the parts' changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from ..raw.split import PARTS as MEASURED
from . import intervals
from .bases import Row
from .intervals import Estimate

REST, _INPUT = "rest", "input"
PARTS = (*MEASURED, REST)


@dataclasses.dataclass(frozen=True)
class Where:
    """A part of the step that changed.

    Attributes:
        part: one of `PARTS`.
        change: of its time, as a share of the whole step before, with its 95 % interval.
    """

    part: str
    change: Estimate


def shares(row: Mapping[str, float]) -> dict[str, float]:
    """By part, of a run or of a row of several; empty if it is not known where the step goes.

    Where only waiting for data is not known, as in a loop of Keras's, that is left out: it is in another part.
    """
    found = {part: row[f"{part}_share"] for part in MEASURED}
    if math.isnan(found[_INPUT]):
        del found[_INPUT]
    if not all(map(math.isfinite, found.values())):
        return {}
    return found | {REST: max(1.0 - sum(found.values()), 0.0)}


def where(after: Row, before: Row, rounds: bool) -> Where | None:
    """The part that changed most, the same way as the rate did, if that is beyond chance; None otherwise.

    Args:
        after, before: rows of `comparison.summaries`; only the runs in their ``rates`` count.
        rounds: whether the runs were made in the same rounds.
    """
    ones, others = _seconds(after), _seconds(before)
    if not ones or not others:
        return None
    steps = [intervals.average([sum(parts.values()) for parts in each.values()]) for each in (others, ones)]
    step, grown = steps[0], steps[1] > steps[0]
    found = []
    for part in PARTS:
        if any(part not in parts for each in (ones, others) for parts in each.values()):
            continue
        sides = [{repeat: parts[part] / step for repeat, parts in each.items()} for each in (ones, others)]
        change = intervals.difference_in_rounds(*sides) if rounds else intervals.difference(*map(_values, sides))
        if change.excludes(0.0) and (change.value > 0) == grown:
            found.append(Where(part, change))
    return max(found, key=lambda each: abs(each.change.value), default=None)


def _values(runs: Mapping[int, float]) -> list[float]:
    return list(runs.values())


def _seconds(row: Row) -> dict[int, dict[str, float]]:
    """Repeat → part → seconds of an example."""
    runs = {run["repeat"]: shares(run) for run in row["ok_runs"] if run["repeat"] in row["rates"]}
    return {
        repeat: {part: share / row["rates"][repeat] for part, share in parts.items()}
        for repeat, parts in runs.items()
        if parts
    }
