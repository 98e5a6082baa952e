"""What the command ``compare`` runs, without what it prints in the end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ...errors import UsageError
from ..launch.run import statuses
from ..launch.starter import Starter
from ..plan.spec import RunSpec
from ..plan.task import current_job
from . import session
from .grid import Grid
from .values import Until


def run_grid(
    strategy: Sequence[str], replicas: Sequence[list[int]], repeats: int | Until, plan: Path | None = None, **flags: Any
) -> tuple[Grid, int]:
    """Run what is not ``ok`` already in the output folder. → the grid, the command's exit code

    Args:
        plan: the file with the flags, if it was given as a plan: then it is told before how long it will take, unless
            the number of repeats is not known.

    Call it in the command's click context. Raises the errors of `Grid`, and of `stratbench.harness.launch.run`.
    """
    job = current_job()
    if job and job.size > 1:
        raise UsageError(f"compare starts its own jobs and can't run inside one of {job.size} processes; use run.")
    sizes = [count for counts in replicas for count in counts]
    with Starter() as starter:
        if isinstance(repeats, int):
            grid = Grid(list(strategy), sizes, repeats, flags, starter)
            grid.try_model()
            return grid, _run(grid.specs, grid, flags, starter, estimated=plan is not None)
        # It needs pandas, which takes a while to import.
        from . import repeating

        grid = Grid(list(strategy), sizes, repeating.MOST_ROUNDS, flags, starter)
        grid.try_model()
        run = functools.partial(_run, grid=grid, flags=flags, starter=starter)
        return grid, repeating.run_until(repeats.share, grid.specs, flags["output"], run)


def _run(specs: list[RunSpec], grid: Grid, flags: dict[str, Any], starter: Starter, estimated: bool = False) -> int:
    """The exit code, after running those of the specs that are not ok yet."""
    known = statuses(flags["output"])
    left = [spec for spec in specs if known.get(spec.run_id) != "ok"]
    if done := len(specs) - len(left):
        unsaved = ", nor are their models saved" if flags["save_model"] else ""
        said = f"{done} of {len(specs)} runs are ok already in {flags['output']}: not run again{unsaved}"
        click.echo(said, err=True)
    _, code = session.run_specs(left, flags["output"], starter, grid.why_not, estimated)
    return code
