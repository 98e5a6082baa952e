"""The table of a workload: a row for each strategy and number of replicas, as wide as fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..analysis import split
from ..analysis.bases import Row
from ..analysis.intervals import LEAST_RUNS
from . import doubts, words

SHOWN = ("computing", "communicating", "waiting")
"""The parts of a step in one column."""
_WIDE = 100
"""Characters of the widest table, except for longer names."""
_NAME = 11
"""Characters to which the longest names are folded if there is no room for more."""


def table(rows: Sequence[Row], console: Console, with_faults: bool) -> Table:
    """The widest table that fits and is at most `_WIDE` wide, except for the strategies' names, which fold."""
    absent = set() if any(row["ok"] >= LEAST_RUNS for row in rows) else {_RANGE}
    if all(math.isnan(row["speedup_low"]) for row in rows):
        absent.add(_SPEEDUP_RANGE)
    if not any(split.shares(row) for row in rows):
        absent.add(_SPLIT)
    if all(math.isnan(row["tokens_per_second"]) for row in rows):
        absent.add(_TOKENS)
    # A model that can't be evaluated has its training loss alone.
    trained_only = any(row["ok"] for row in rows) and not any(row["metric"] for row in rows)
    absent |= {_VALIDATION, _TEST} if trained_only else {_LOSS}
    headers = [header for header in _NUMBERS if header not in absent]
    made = _filled(rows, headers, with_faults)
    for header in _LESS_NEEDED:
        names = max(cell_len(name) for name in made.columns[0].cells if isinstance(name, str))
        room = min(console.width, _WIDE) + max(names - _NAME, 0)
        if Measurement.get(console, console.options.update(width=room + 1), made).maximum <= room:
            break
        headers = [each for each in headers if each != header]
        made = _filled(rows, headers, with_faults)
    return made


def empty(headers: Sequence[str]) -> Table:
    """A table of strategies, with these headings of figures, without a row."""
    made = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    made.add_column("strategy", overflow="fold", min_width=_NAME)
    for header in headers:
        made.add_column(Text(header), justify="right", no_wrap=True)
    return made


def _filled(rows: Sequence[Row], headers: Sequence[str], with_faults: bool) -> Table:
    named = metric(rows)
    table = empty([header.format(named) for header in headers])
    table.add_column("status", no_wrap=True)
    for row in rows:
        faults = f" with {row['inject']}" if with_faults and row["inject"] else ""
        table.add_row(words.strategy(row) + faults, *(_NUMBERS[header](row) for header in headers), _status(row))
    return table


def _rate(row: Row) -> str:
    return doubts.rate_mark(row) + words.rate(row["examples_per_second"])


def metric(rows: Sequence[Row]) -> str:
    """The heading of the main metric: its name if all rows have the same and it is short."""
    names = {row["metric"] for row in rows if row["metric"]} or {"accuracy"}
    if names == {"accuracy"}:
        return "acc."
    return "metric" if len(names) > 1 or cell_len(name := names.pop()) > _LONGEST_METRIC else name


def _quality(row: Row, split: str) -> str:
    form = ".4f" if row["metric"] == "accuracy" else ".4g"
    name = f"{split}_metric"
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    # Repeats of a synchronous strategy give the same weights, so often the same figure to the last digit.
    return words.number(row[name], form) + (f"±{half:.2g}" if half > 0 else "")


def _range(row: Row) -> str:
    """The rate's interval, short enough for one column; without one, the number of runs."""
    if row["ok"] < LEAST_RUNS:
        return words.count(row["ok"], "run") if row["ok"] else words.NOTHING
    low, high = row["examples_per_second_low"], row["examples_per_second_high"]
    if high >= 1e5:
        return f"{low / 1000:,.0f}k–{high / 1000:,.0f}k"
    return words.interval(low, high, ",.0f" if high >= 100 else ".3g")


def _shares(row: Row) -> str:
    """Of a step: computing, communicating, waiting for others."""
    found = split.shares(row)
    return "/".join(f"{100 * found[part]:.0f}" for part in SHOWN) if found else words.NOTHING


def _status(row: Row) -> str:
    status = f"ok {row['ok']}/{row['repeats']}" if 0 < row["ok"] < row["repeats"] else row["status"]
    return f"{status}, busy" if row["disturbed"] else status


_TOKENS = "tokens\nper second"
_RANGE, _SPEEDUP_RANGE = "95 % in-\nterval", "its 95 %\ninterval"
_SPLIT = "comp/comm/\nwait, %"
_VALIDATION, _TEST = "valid.\n{}", "test\n{}"
"""Headings of the main metric."""
_LOSS = "train\nloss"
_LONGEST_METRIC = 10
"""Characters of a heading."""
_NUMBERS: dict[str, Callable[[Row], str]] = {
    "repli-\ncas": lambda row: str(row["replicas"]),
    "global\nbatch": lambda row: str(row["global_batch"]),
    "examples\nper second": _rate,
    _TOKENS: lambda row: doubts.rate_mark(row) + words.number(row["tokens_per_second"], ",.0f"),
    _RANGE: _range,
    "runs": lambda row: str(row["ok"]) if row["ok"] else words.NOTHING,
    "speed-\nup": lambda row: doubts.speedup_mark(row) + words.number(row["speedup"], ".2f"),
    _SPEEDUP_RANGE: lambda row: words.interval(row["speedup_low"], row["speedup_high"], ".2f"),
    "effi-\nciency": lambda row: doubts.speedup_mark(row) + words.number(row["efficiency"], ".0%"),
    "step\nms": lambda row: words.number(row["step_seconds_median"] * 1000, ".1f"),
    _SPLIT: lambda row: _shares(row),
    _VALIDATION: lambda row: _quality(row, "validation"),
    _TEST: lambda row: _quality(row, "test"),
    _LOSS: lambda row: words.number(row["final_loss"], ".4g"),
    "train\ns": lambda row: words.number(row["train_seconds"], ".1f"),
}
# Left out one by one if the table would be too wide.
_LESS_NEEDED = (_VALIDATION, "train\ns", "step\nms", _RANGE, _TEST, _SPLIT, _SPEEDUP_RANGE)
