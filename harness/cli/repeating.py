"""``--repeats auto``: rounds are added until every rate is known well enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ...errors import ResultsError
from ...results.analysis.bases import Row
from ...results.analysis.comparison import summaries
from ...results.analysis.intervals import LEAST_RUNS
from ...results.raw.record import without_repeat
from ...results.showing import words
from ...results.tables.reading import load_runs
from ..plan.spec import RunSpec
from .session import INTERRUPTED

MOST_ROUNDS = 30
"""Where noise is that large, more rounds take hours and tell little more."""


def run_until(share: float, specs: list[RunSpec], output: Path, run: Callable[[list[RunSpec]], int]) -> int:
    """Run as many rounds as it takes, and say after each what is not known well enough. → the worst exit code

    Args:
        share: of each rate, within which half of its 95 % interval is to be.
        specs: of `MOST_ROUNDS` rounds.
        run: the specs that are not ok yet. → exit code
    """
    worst, done, rows = 0, list[RunSpec](), list[Row]()
    for number, batch in enumerate(_batches(specs)):
        # It would be no use to repeat what never is ok.
        timed = {without_repeat(run["run_id"]) for row in rows for run in row["ok_runs"]}
        chosen = [spec for spec in batch if not number or without_repeat(spec.run_id) in timed]
        worst = max(worst, run(chosen))
        done += chosen
        if worst in INTERRUPTED.values():
            return worst
        rows = _rows(done, output)
        wide = _too_wide(rows, share)
        if not wide:
            return worst
        click.echo(f"round {number + LEAST_RUNS}: {_told(wide, share)}", err=True)
    click.echo(f"stratbench: more than {MOST_ROUNDS} rounds are not made", err=True)
    return worst


def _batches(specs: list[RunSpec]) -> Iterator[list[RunSpec]]:
    """The specs of the first rounds, as many as an interval needs, and then those of one round at a time."""
    yield [spec for spec in specs if spec.repeat < LEAST_RUNS]
    for repeat in range(LEAST_RUNS, MOST_ROUNDS):
        yield [spec for spec in specs if spec.repeat == repeat]


def _rows(specs: list[RunSpec], output: Path) -> list[Row]:
    """The rows of the table that these specs have, of those with rates."""
    try:
        runs = load_runs(output)
    except ResultsError:
        # Nothing was run, as after Ctrl-C.
        return []
    return [row for row in summaries(runs[runs["run_id"].isin([spec.run_id for spec in specs])]) if row["rates"]]


def _too_wide(rows: list[Row], share: float) -> dict[str, float]:
    """Name → half of its rate's 95 % interval, as a share of the rate, of each row where that is more than ``share``.

    Rows of fewer runs than an interval needs are left out: some of these did not end well.
    """
    found = {
        words.name(row): (row["examples_per_second_high"] - row["examples_per_second_low"])
        / (2 * row["examples_per_second"])
        for row in rows
        if len(row["rates"]) >= LEAST_RUNS
    }
    return {name: half for name, half in found.items() if half > share}


def _told(wide: dict[str, float], share: float) -> str:
    """``2 rates are not known to ±3 % yet, least ps ×2, ±8.1 %``."""
    name = max(wide, key=lambda each: wide[each])
    rates = "1 rate is" if len(wide) == 1 else f"{len(wide)} rates are"
    return f"{rates} not known to ±{100 * share:g} % yet, least {name}, ±{100 * wide[name]:.1f} %"
