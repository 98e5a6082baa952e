"""The flag ``--target`` of ``stratbench show``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ...results.tables.reading import Tables


def print_times(tables: Tables, text: str, as_json: bool) -> None:
    """Print how long the rows of each workload took to reach the target; as JSON, each run.

    Raises UsageError for a target that is none, or of a metric that the runs don't have.
    """
    from ...results.analysis import time_to_quality
    from ...results.showing import plain, targets
    from ...results.showing.terminal import make_console
    from ...results.showing.workloads import workloads

    target = time_to_quality.parse(text)
    found = time_to_quality.of_runs(tables, target)
    if as_json:
        click.echo(plain.to_json(found))
        return
    console = make_console(sys.stdout)
    for workload in workloads(tables.runs):
        if reached := time_to_quality.of_rows(workload.rows, found):
            console.print(workload.title, style="bold", markup=False, emoji=False)
            targets.render(reached, target, console)
