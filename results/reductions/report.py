"""The tables of all-reduces for people: times, bus bandwidths and lines, of each transport by size."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from .columns import VECTOR
from .tables import Reductions
from .words import seconds_words, size_words

_NOTHING = "–"
_CELL = 11
"""Characters of a column."""
_FOOTNOTE = (
    "times are medians of the slowest process; bus bandwidth is 2(N−1)/N·S/t; memory: each process only copies, with "
    "S/t as its bandwidth. On one host no all-reduce is faster."
)

Cells = Mapping[str, Mapping[Hashable, Mapping[Hashable, Any]]]
"""Transport → case → its row."""


def render(tables: Reductions, console: Console) -> None:
    """Print them, for each number of processes. Of a transport measured several times, the last counts."""
    last = tables.transports.drop_duplicates(["transport", "replicas"], keep="last")
    for replicas, transports in last.groupby("replicas", sort=True):
        console.print(f"all-reduce among {replicas} replicas · float32", style="bold", markup=False)
        rows = tables.reductions.merge(transports[["run_id", "transport"]], on="run_id")
        rows = rows.assign(model=rows["tensors"] != VECTOR).sort_values(["model", "size_bytes"])
        if len(rows):
            names = [name for name in transports["transport"] if name in set(rows["transport"])]
            _print_cases(rows, names, console)
            fitted = transports[transports["fit_error"].notna()]
            if len(fitted):
                console.print(_lines(fitted), markup=False)
            console.print(_FOOTNOTE, style="dim", markup=False)
        for row in transports.to_dict("records"):
            if reason := row["reason"]:
                _remark(console, f"{row['transport']} {row['status']}: {reason}")
            if row["disturbed"]:
                _remark(console, f"{row['transport']} busy: {row['disturbed']}")


def _remark(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, emoji=False, soft_wrap=True)


def _print_cases(rows: pd.DataFrame, names: Sequence[str], console: Console) -> None:
    """Two tables; several of each if the cases are too many for the console's width."""
    cases = list(dict.fromkeys(zip(rows["tensors"], rows["size_bytes"], strict=True)))
    cells: Cells = {
        name: {(row["tensors"], row["size_bytes"]): row for row in rows[rows["transport"] == name].to_dict("records")}
        for name in names
    }
    room = max(1, (console.width - max(map(len, names))) // _CELL)
    for title, words in (("time", _time), ("GB/s", _bandwidth)):
        for part in _parts(cases, room):
            console.print(_table(title, cells, part, words), markup=False)


def _parts(cases: Sequence[Any], room: int) -> Iterator[Sequence[Any]]:
    return (cases[start : start + room] for start in range(0, len(cases), room))


def _table(title: str, cells: Cells, cases: Sequence[Any], words: Callable[[Mapping[Hashable, Any]], str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for tensors, size in cases:
        table.add_column(size_words(size) if tensors == VECTOR else f"{tensors} {size_words(size)}", justify="right")
    for name, of_cases in cells.items():
        table.add_row(name, *[words(of_cases[each]) if each in of_cases else _NOTHING for each in cases])
    return table


def _time(row: Mapping[Hashable, Any]) -> str:
    return seconds_words(row["seconds_median"])


def _bandwidth(row: Mapping[Hashable, Any]) -> str:
    bandwidth = row["busbw_bytes_per_second"]
    return f"{(row['algbw_bytes_per_second'] if math.isnan(bandwidth) else bandwidth) / 1e9:.3g}"


def _lines(transports: pd.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("t = α + β·S", no_wrap=True)
    for name in ("α", "1/β", "mean error"):
        table.add_column(name, justify="right")
    for row in transports.to_dict("records"):
        beta = row["beta_seconds_per_byte"]
        bandwidth = f"{1e-9 / beta:.3g} GB/s" if beta else _NOTHING
        table.add_row(row["transport"], seconds_words(row["alpha_seconds"]), bandwidth, f"{row['fit_error']:.0%}")
    return table
