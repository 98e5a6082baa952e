"""What changed between two sets of runs, beyond noise: between two folders, or between two strategies of one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from . import bases, equal_work, intervals, split
from .bases import Row
from .comparison import SPEC, summaries
from .intervals import UNKNOWN, Estimate

Verdict = Literal["faster", "slower", "no difference shown", "too few runs", "broken", "mended", "not comparable"]

_FILES = {"model_digest": "the model's file was changed", "data_digest": "the data set's file was changed"}
_STRATEGY = ("strategy", "options")
_ALWAYS_KNOWN = ("stratbench", "tensorflow", "tensorflow_build", "keras", "python", "os")
"""Columns of software. They are empty only in files from before they were kept."""
_VERSIONS = (*_ALWAYS_KNOWN, "horovod", "gpu_driver", "cpu_governor", "settings", "model_commit")


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of a before, and what became of it.

    The machine's counters tell which runs something else disturbed, whatever their rates were. They are left out of
    the ratio: else a busy machine would be told as a change.

    Attributes:
        before, after: rows of `comparison.summaries`; None where there is no such row.
        verdict: of the rate. "broken": it was ok before and is not now; "mended": the other way round.
        why: why it is not comparable, or not ok; else empty.
        rates: examples per second before and after, of undisturbed runs; NaN without any.
        runs: the numbers of these.
        rate: the rate after divided by the one before, with its 95 % interval.
        metric: the main metric on the test examples, after minus before, with its 95 % interval.
        repeats: how many runs of each would probably show the difference asked for; None if unknown.
        where: the part of the step that changed most, if the rate did and it is known.
        versions: software that differs, in words.
    """

    before: Row | None
    after: Row | None
    verdict: Verdict
    why: str = ""
    rates: tuple[float, float] = (math.nan, math.nan)
    runs: tuple[int, int] = (0, 0)
    rate: Estimate = UNKNOWN
    metric: Estimate = UNKNOWN
    repeats: int | None = None
    where: split.Where | None = None
    versions: str = ""

    @property
    def row(self) -> Row:
        """The row after, or else the one before."""
        row = self.after or self.before
        assert row
        return row

    def slower_by(self, share: float) -> bool:
        """Whether it is slower beyond noise, and in the middle of its interval by more than ``share``."""
        return self.verdict == "slower" and self.rate.value < 1 - share


def between_folders(before: pd.DataFrame, after: pd.DataFrame, share: float) -> list[Change]:
    """Compare the rows of two runs tables that have the same spec.

    Rows are kept apart where the work or the machine isn't the same: see `Change.why`.

    Args:
        share: the difference of rates that repeats are counted for, such as 0.05.
    """
    ones, others = summaries(before), summaries(after)
    same = [name for name in SPEC if name not in (*_FILES, *bases.MACHINE)]
    return _changes(ones, others, same, share)


def between_strategies(runs: pd.DataFrame, before: Sequence[str], after: Sequence[str], share: float) -> list[Change]:
    """Compare the rows of two strategies that do the same work with as many replicas.

    Args:
        before, after: strategy and options, as the columns of the runs table have them.
        share: as in `between_folders`.
    """
    rows = summaries(runs)
    ones, others = (
        [row for row in rows if (row["strategy"], row["options"]) == tuple(wanted)] for wanted in (before, after)
    )
    same = ["parts", *(name for name in SPEC if name not in (*_FILES, *bases.MACHINE, *_STRATEGY))]
    return _changes(ones, others, same, share)


def _changes(ones: list[Row], others: list[Row], same: Sequence[str], share: float) -> list[Change]:
    made, left = [], list(others)
    for one in ones:
        alike = [other for other in left if all(bases.same(one[name], other[name]) for name in same)]
        # The same files and machine go before others: these are told, but not compared.
        other = min(alike, key=lambda each: len(_unlike(one, each)), default=None)
        if other is None:
            made.append(Change(one, None, "not comparable", "B has no such runs"))
        else:
            left.remove(other)
            made.append(_change(one, other, share))
    return made + [Change(None, other, "not comparable", "A has no such runs") for other in left]


def _unlike(one: Row, other: Row) -> list[str]:
    said = [words for name, words in _FILES.items() if one[name] != other[name]]
    said += equal_work.differences(other, one) or equal_work.differences(one, other)
    machines = [bases.machine_name(row) for row in (one, other)]
    if machines[0] != machines[1]:
        said.append(f"the machines differ: {'; '.join(machines)}")
    return said


def _change(one: Row, other: Row, share: float) -> Change:
    if unlike := _unlike(one, other):
        return Change(one, other, "not comparable", "; ".join(unlike))
    if not one["rates"] and not other["rates"]:
        return Change(one, other, "not comparable", other["reason"] or "neither has a rate")
    if not other["rates"]:
        return Change(one, other, "broken", other["reason"])
    if not one["rates"]:
        return Change(one, other, "mended", one["reason"])
    before, after = _quiet(one), _quiet(other)
    rate = bases.speedup_of(after, before)
    sides = [list(row["rates"].values()) for row in (before, after)]
    runs = len(sides[0]), len(sides[1])
    verdict = _verdict(rate)
    return Change(
        one,
        other,
        verdict,
        rates=(intervals.positive(sides[0]).value, intervals.positive(sides[1]).value),
        runs=runs,
        rate=rate,
        metric=intervals.difference(bases.test_metrics(other), bases.test_metrics(one)),
        repeats=intervals.repeats_for(rate, min(runs), 1 - share),
        where=split.where(after, before, rate.by_rounds) if verdict in ("faster", "slower") else None,
        versions=_versions(one, other),
    )


def _quiet(row: Row) -> Row:
    """The row with the rates of runs alone that nothing else on the machine disturbed."""
    quiet = {run["repeat"] for run in row["ok_runs"] if not run["disturbed"]}
    return row | {"rates": {repeat: rate for repeat, rate in row["rates"].items() if repeat in quiet}}


def _verdict(rate: Estimate) -> Verdict:
    if not rate.known:
        return "too few runs"
    if not rate.excludes(1.0):
        return "no difference shown"
    return "faster" if rate.value > 1 else "slower"


def _versions(one: Row, other: Row) -> str:
    said = []
    for name in _VERSIONS:
        before, after = (sorted({run[name] for run in row["ok_runs"]}) for row in (one, other))
        older = name in _ALWAYS_KNOWN and (before == [""] or after == [""])
        if before != after and not older:
            said.append(f"{name} {' and '.join(before) or 'unknown'}, then {' and '.join(after) or 'unknown'}")
    return "; ".join(said)
