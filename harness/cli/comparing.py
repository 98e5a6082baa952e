"""What the command ``compare`` runs, without what it prints in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ...errors import UsageError
from ..launch.run import statuses
from ..launch.starter import Starter
from ..plan.task import current_job
from . import session
from .grid import Grid


def run_grid(strategy: Sequence[str], replicas: Sequence[list[int]], repeats: int, **flags: Any) -> tuple[Grid, int]:
    """Run what is not ``ok`` already in the output folder. → the grid, the command's exit code

    Call it in the command's click context. Raises the errors of `Grid`, and of `stratbench.harness.launch.run`.
    """
    job = current_job()
    if job and job.size > 1:
        raise UsageError(f"compare starts its own jobs and can't run inside one of {job.size} processes; use run.")
    sizes = [count for counts in replicas for count in counts]
    with Starter() as starter:
        grid = Grid(list(strategy), sizes, repeats, flags, starter)
        grid.try_model()
        known = statuses(flags["output"])
        left = [spec for spec in grid.specs if known.get(spec.run_id) != "ok"]
        if done := len(grid.specs) - len(left):
            unsaved = ", nor are their models saved" if flags["save_model"] else ""
            said = f"{done} of {len(grid.specs)} runs are ok already in {flags['output']}: not run again{unsaved}"
            click.echo(said, err=True)
        _, code = session.run_specs(left, flags["output"], starter, grid.why_not)
    return grid, code
