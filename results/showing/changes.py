"""What changed between two sets of runs, as a table on a terminal and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..analysis.difference import Change
from ..analysis.intervals import LEAST_RUNS, Estimate
from . import plain, words
from .table import empty

_HEADERS = (
    "repli-\ncas",
    "global\nbatch",
    "A, examples\nper second",
    "B, examples\nper second",
    "runs\nA, B",
    "B / A",
    "95 % in-\nterval",
)
_ROWS_FOR_A_CHANCE = 5
"""From so many compared rows on, it is said that one in twenty differs by chance."""


def render(changes: Sequence[Change], names: tuple[str, str], share: float, console: Console) -> None:
    """Print a row for each change, with remarks below.

    Args:
        names: of what is compared, before and after.
        share: the difference that the numbers of repeats are for.
    """
    for name, letter in zip(names, "AB", strict=True):
        console.print(f"{letter}: {name}", style="bold", markup=False, emoji=False, soft_wrap=True)
    console.print(_table(changes), markup=False)
    remarks = [
        line for change, name in zip(changes, _labels(changes), strict=True) for line in _remarks(change, name, share)
    ]
    for line in _captions(changes) + remarks:
        console.print(line, style="dim", markup=False, emoji=False, soft_wrap=True)


def to_json(changes: Sequence[Change]) -> str:
    """A JSON list of objects, one for each change."""
    return plain.dump([_plain(change) for change in changes])


def _plain(change: Change) -> dict[str, Any]:
    row = change.row
    sides = {"before": change.before, "after": change.after}
    figures = {"rate_ratio": change.rate, "test_metric_difference": change.metric}
    found = {
        **{name: row[name] for name in ("strategy", "options", "replicas", "global_batch", "model", "dataset")},
        "verdict": change.verdict,
        "why": change.why,
        **{f"strategy_{side}": each["strategy"] if each else "" for side, each in sides.items()},
        **{f"runs_{side}": count for side, count in zip(sides, change.runs, strict=True)},
        **{f"examples_per_second_{side}": rate for side, rate in zip(sides, change.rates, strict=True)},
        **{name: estimate.value for name, estimate in figures.items()},
        **{f"{name}_low": estimate.low for name, estimate in figures.items()},
        **{f"{name}_high": estimate.high for name, estimate in figures.items()},
        "by_rounds": change.rate.by_rounds,
        "repeats_needed": change.repeats,
        "where": change.where.part if change.where else "",
        "where_change": change.where.change.value if change.where else math.nan,
        "versions": change.versions,
    }
    return plain.cells(found)


def _table(changes: Sequence[Change]) -> Table:
    table = empty(_HEADERS)
    table.add_column("B is", no_wrap=True)
    for change in changes:
        row = change.row
        table.add_row(
            _name(change),
            str(row["replicas"]),
            str(row["global_batch"]),
            *map(words.rate, change.rates),
            "{}, {}".format(*change.runs),
            words.ratio(change.rate, ".3f"),
            words.interval(change.rate.low, change.rate.high, ".3f"),
            _verdict(change),
        )
    return table


def _name(change: Change) -> str:
    names = dict.fromkeys(words.strategy(row) for row in (change.before, change.after) if row)
    return " → ".join(names)


def _verdict(change: Change) -> str:
    if change.verdict in ("faster", "slower"):
        return f"{change.verdict}, {abs(change.rate.value - 1):.1%}"
    return {"broken": "not ok any more", "mended": "ok now"}.get(change.verdict, change.verdict)


def _captions(changes: Sequence[Change]) -> list[str]:
    known = [change for change in changes if change.rate.known]
    if not known:
        return []
    ways = {change.rate.by_rounds for change in known}
    pairs = "of the ratios of each round" if ways == {True} else "of independent runs (Welch)"
    lines = [f"95 % intervals by Student's t, {pairs if len(ways) == 1 else 'by rounds where runs were made so'}"]
    if len(known) >= _ROWS_FOR_A_CHANCE:
        lines.append(
            f"of {len(known)} intervals, about one in twenty leaves out the truth by chance: repeat what surprises"
        )
    return lines


def _labels(changes: Sequence[Change]) -> list[str]:
    """The name of each, with its batch where several batches have that name."""
    names = [f"{_name(change)} ×{change.row['replicas']}" for change in changes]
    batches = [change.row["global_batch"] for change in changes]
    counts = Counter(name for name, _ in set(zip(names, batches, strict=True)))
    return [
        f"{name} at batch {batch}" if counts[name] > 1 else name for name, batch in zip(names, batches, strict=True)
    ]


def _remarks(change: Change, name: str, share: float) -> list[str]:
    lines = [f"{name}: {change.why}"] if change.why else []
    for letter, row in zip("AB", (change.before, change.after), strict=True):
        if row and row["disturbed"]:
            lines.append(
                f"{name}: {row['disturbed_runs']} of {row['ok']} runs of {letter} are left out, as the machine was "
                f"busy: {row['disturbed']}"
            )
    if change.verdict == "too few runs":
        lines.append(f"{name}: chance can be told from {LEAST_RUNS} undisturbed runs of each on")
    if change.verdict == "no difference shown" and not _tight(change.rate, share):
        enough = f"about {change.repeats} runs of each would" if change.repeats else "more than 1000 runs of each would"
        lines.append(f"{name}: too noisy to show a difference of {share * 100:g} %: {enough}")
    if change.metric.excludes(0.0):
        metric = change.row["metric"]
        lines.append(f"{name}: test {metric} differs by {change.metric.value:+.4g} ({_signed(change.metric)})")
    if change.where:
        part, by = change.where.part, change.where.change
        more = "more" if by.value > 0 else "less"
        low, high = sorted((abs(by.low), abs(by.high)))
        ends = words.interval(low, high, ".1%")
        lines.append(f"{name}: most of it in {words.PARTS[part]}, {abs(by.value):.1%} of a step {more} ({ends})")
    if change.versions:
        lines.append(f"{name}: {change.versions}")
    return lines


def _tight(rate: Estimate, share: float) -> bool:
    """Whether the interval already shows that there is no difference as large as ``share``."""
    return rate.low > 1 - share and rate.high < 1 / (1 - share)


def _signed(estimate: Estimate) -> str:
    return f"{estimate.low:+.4g} to {estimate.high:+.4g}"
