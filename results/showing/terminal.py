"""Results for people: tables on a terminal or in a pipe."""

from __future__ import annotations

from typing import TextIO

import pandas as pd
from rich.console import Console

from . import remarks, table, verdict
from .workloads import workloads

_PIPE_WIDTH = 120


class _PipeConsole(Console):
    """Leaves a closed pipe to the caller. Rich itself would end the program with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(stream: TextIO) -> Console:
    """A console with the width of the terminal ``stream``. If it is not a terminal: plain text, 120 columns."""
    console = _PipeConsole(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def render(runs: pd.DataFrame, console: Console, across_faults: bool = False) -> None:
    """Print the comparison of ``runs`` (the runs table): a table for each workload, its answer, and remarks.

    Rates of several repeats are geometric means, with their number and, from three on, their 95 % interval. A narrow
    console gets fewer columns, so that the table stays readable. Figures from few runs or from a busy machine are
    marked: see `doubts`. Runs with injected faults have their own tables. With ``across_faults``, their bases are runs
    without faults.
    """
    for workload in workloads(runs, across_faults):
        console.print(workload.title, style="bold", markup=False, emoji=False)
        console.print(table.table(workload.rows, console, across_faults), markup=False)
        if sum(bool(row["rates"]) for row in workload.rows) > 1:
            for sentence in verdict.sentences(workload.rows):
                console.print(sentence, style="bold", markup=False, emoji=False)
        for line in remarks.captions(workload.rows):
            console.print(line, style="dim", markup=False, emoji=False)
        for line in remarks.remarks(workload.rows):
            # A reason stays on one line, so that a search in the output finds it.
            console.print(line, style="dim", markup=False, emoji=False, soft_wrap=True)
        console.print()
