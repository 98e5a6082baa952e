"""Time to a target quality, as a table on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console

from ..analysis.intervals import LEAST_RUNS
from ..analysis.time_to_quality import Reached, Target
from . import words
from .table import empty

_HEADERS = (
    "repli-\ncas",
    "runs that\nreach it",
    "and\nkeep it",
    "epochs",
    "examples",
    "training\nseconds",
    "95 % in-\nterval",
    "speed-\nup",
    "its 95 %\ninterval",
)


def render(found: Sequence[Reached], target: Target, console: Console) -> None:
    """Print a row for each strategy and number of replicas."""
    console.print(f"Time to {target} on the validation examples", style="bold", markup=False, emoji=False)
    table = empty(_HEADERS)
    for each in found:
        table.add_row(words.strategy(each.row) + words.batch(each.row), *_cells(each))
    console.print(table, markup=False)
    for line in _captions(found):
        console.print(line, style="dim", markup=False, emoji=False)
    console.print()


def _cells(each: Reached) -> list[str]:
    """The row's figures, in the order of the headers."""
    censored = each.reached < each.runs
    seconds = words.number(each.seconds.value, ".2f")
    return [
        str(each.row["replicas"]),
        f"{each.reached} of {each.runs}",
        str(each.kept),
        words.number(each.epochs, ".1f"),
        words.number(each.examples, ",.0f"),
        f">{seconds}" if censored and each.reached else seconds,
        words.interval(each.seconds.low, each.seconds.high, ".2f"),
        _speedup(each),
        words.interval(each.speedup.low, each.speedup.high, ".2f"),
    ]


def _speedup(each: Reached) -> str:
    if each.row["is_base"]:
        return "1.00" if each.reached == each.runs else words.NOTHING
    return words.ratio(each.speedup, ".2f")


def _captions(found: Sequence[Reached]) -> list[str]:
    """What the figures mean."""
    every = {words.evaluated(each.row) for each in found}
    known = f"after every {every.pop()}" if len(every) == 1 else "where weights were evaluated"
    lines = [f"times are without evaluation and start-up, and end where a metric is known: {known}"]
    if any(0 < each.reached < each.runs for each in found):
        lines.append("> some runs never reached it, so that the mean of the others is too short")
    compared = [each for each in found if not math.isnan(each.speedup.value)]
    if any(not each.speedup.known for each in compared):
        lines.append(f"~ rests on fewer than {LEAST_RUNS} runs: some of it may be chance")
    if compared:
        bases = dict.fromkeys(each.row["base"] for each in compared)
        lines.append(f"speed-up: seconds of {', '.join(bases)} divided by the row's")
    return lines
