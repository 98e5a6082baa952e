"""The command ``stratbench diff``: what changed beyond noise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import UsageError
from .reading import read_runs
from .values import Percent

if TYPE_CHECKING:
    import pandas as pd

    from ...results.analysis.difference import Change

_USUAL_SHARE = 0.05
"""The difference for which the number of repeats is told, if the user names none."""


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@click.option(
    "--strategy",
    "-s",
    multiple=True,
    help="Without B, given twice: compare these two strategies of A, NAME[:key=value,…]. With B: only these.",
)
@click.option(
    "--fail-if-slower",
    type=Percent(),
    help="End with exit code 1 if B is slower beyond noise, by more than this in the middle of the interval, or no "
    "longer ok.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
def diff(a: Path, b: Path | None, strategy: tuple[str, ...], fail_if_slower: float | None, as_json: bool) -> int:
    """What changed from A to B beyond noise: two output folders, or two strategies of one.

    Rows of the same spec are compared by their runs' rates. A 95 % interval that leaves out 1 is a difference; else
    it is told how many repeats would show one. Rows of other model code, data, work or machines are named, not
    compared.

    \b
    Examples:
      stratbench diff before after --fail-if-slower 5%
      stratbench diff stratbench-results -s mirrored -s multiworker
    """
    from ...results.showing import changes as showing
    from ...results.showing.terminal import make_console

    share = fail_if_slower or _USUAL_SHARE
    changes, names = _compared(a, b, strategy, share)
    if as_json:
        click.echo(showing.to_json(changes))
    else:
        showing.render(changes, names, share, make_console(sys.stdout))
    if all(change.verdict == "not comparable" for change in changes):
        why = next((change.why for change in changes), "there are no runs")
        raise UsageError(f"A and B must have runs of the same work. Received: {names[0]} and {names[1]}: {why}.")
    if fail_if_slower is None:
        return 0
    return int(any(change.verdict == "broken" or change.slower_by(fail_if_slower) for change in changes))


def _compared(a: Path, b: Path | None, chosen: tuple[str, ...], share: float) -> tuple[list[Change], tuple[str, str]]:
    from ...results.analysis import difference

    runs = read_runs(a)
    if b is None:
        if len(chosen) != 2:
            raise UsageError(
                "give two folders, or one and two strategies of it, as in 'stratbench diff DIR -s mirrored -s ps'. "
                f"Received: {a} and {len(chosen)} strategies."
            )
        before, after = (_variant(reference, runs, a) for reference in chosen)
        return difference.between_strategies(runs, before, after, share), (chosen[0], chosen[1])
    later = read_runs(b)
    if chosen:
        runs, later = (_only(chosen, each, path) for each, path in ((runs, a), (later, b)))
    return difference.between_folders(runs, later, share), (str(a), str(b))


def _only(chosen: tuple[str, ...], runs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The runs of these strategies."""
    wanted = [_variant(reference, runs, path) for reference in chosen]
    return runs[[pair in wanted for pair in zip(runs["strategy"], runs["options"], strict=True)]]


def _variant(reference: str, runs: pd.DataFrame, path: Path) -> tuple[str, str]:
    """Strategy and options, as the runs table has them. Raises UsageError if there are no such runs."""
    from ...results.raw.record import canonical
    from ..plan.references import variant

    name, options = variant(reference, {})
    text = canonical(options)
    if not ((runs["strategy"] == name) & (runs["options"] == text)).any():
        there = ", ".join(dict.fromkeys(runs["strategy"])) or "none"
        raise UsageError(f"--strategy must be one that {path} has runs of: {there}. Received: '{reference}'.")
    return name, text
