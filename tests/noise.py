"""How often ``stratbench diff`` is wrong: a run against itself, and against itself with a slow-down put in on purpose.

    make noise ARGS="--trials 20 --repeats 8 --where input"

A trial makes rounds of three runs of the same spec: one for each of two folders that don't differ, and one with
a known share of a step added to each step, by sleeping: while it computes (``--inject slow``), before each batch, or
before each exchange. Then ``diff`` compares the folders. Prints how many of the trials claim a difference where there
is none, how many find the one that is there, and how many of these name the part of the step where it is.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from planted.sitecustomize import VARIABLE
from stratbench.harness.launch.run import open_store, run_one
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.spec import RunSpec
from stratbench.results import load
from stratbench.results.analysis import difference

DATASET = "synthetic:shape=28x28x1,classes=10,examples=2400"
"""Small, so that runs are short."""
WORK = {"model": "cnn", "dataset": DATASET, "global_batch": 64, "cores_per_replica": 1}
WHERE = {"computing": ("single", 1), "input": ("single", 1), "communicating": ("allreduce", 2)}
"""With the strategy and the replicas that it is put into."""
PLANTED = Path(__file__).parent / "planted"


@contextmanager
def planted(where: str, seconds: float) -> Iterator[None]:
    """Processes that are started meanwhile make each step so much longer."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", VARIABLE)}
    if where != "computing":
        os.environ |= {"PYTHONPATH": str(PLANTED), VARIABLE: f"{where}:{seconds:.6f}"}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def spec(where: str, steps: int, inject: str = "") -> RunSpec:
    strategy, replicas = WHERE[where]
    chosen = [inject] if inject else []
    grid = Experiment(strategies=[strategy], replicas=[replicas], steps=steps, inject=chosen, **WORK)
    return grid.expand()[0]


def one_run(one: RunSpec, folder: Path, starter: Starter) -> dict[str, Any]:
    with open_store(folder) as store:
        record = run_one(one, store, threading.Event(), lambda label, event: None, starter=starter)
    assert record.run["status"] == "ok", record.run["reason"]
    return record.run


class Trials:
    """Of a slow-down in one place.

    Args:
        share: of a step, by which it is slowed.
    """

    def __init__(self, where: str, steps: int, share: float, folder: Path):
        self._where, self._folder = where, folder
        self._plain = self._slow = spec(where, steps)
        step = self._median("", folder)
        self._seconds = share * step
        if where == "computing":
            # Calling the sleep takes time, too.
            delayed = self._median("slow:worker=0,seconds=0.000001", folder)
            self._seconds -= delayed - step
            if self._seconds <= 0:
                raise click.ClickException(f"--share must be more than calling a sleep takes. Received: {share}.")
            self._slow = spec(where, steps, f"slow:worker=0,seconds={self._seconds:.6f}")
        click.echo(f"{where}: a step takes {step * 1000:.2f} ms; {self._seconds * 1000:.2f} ms are put in")

    def _median(self, inject: str, folder: Path) -> float:
        """Of the steps of five runs, in seconds."""
        one = spec(self._where, self._plain.steps or 0, inject)
        with Starter() as starter:
            runs = [one_run(one.model_copy(update={"repeat": each}), folder / "first", starter) for each in range(5)]
        return statistics.median(run["step_seconds_median"] for run in runs)

    def trial(self, number: int, repeats: int) -> dict[str, difference.Change]:
        """``b`` and ``slow`` against ``a``, each of ``repeats`` runs."""
        names = ["a", "b", "slow"]
        folder = self._folder / str(number)
        with Starter() as plain, Starter() as slow:
            for repeat in range(repeats):
                # The order of a round turns, as that of `compare` does.
                for name in names[repeat % 3 :] + names[: repeat % 3]:
                    if name == "slow":
                        with planted(self._where, self._seconds):
                            one_run(self._slow.model_copy(update={"repeat": repeat}), folder / name, slow)
                    else:
                        one_run(self._plain.model_copy(update={"repeat": repeat}), folder / name, plain)
        tables = {name: load(folder / name).runs for name in names}
        # For diff, runs with faults are another spec: here the fault is what is to be found.
        tables["slow"] = tables["slow"].assign(inject="")
        found = {}
        for name in ("b", "slow"):
            (found[name],) = difference.between_folders(tables["a"], tables[name], 0.05)
        return found


def told(number: int, name: str, change: difference.Change) -> str:
    return (
        f"{number + 1:3d} {name:4s} {change.verdict:20s} {change.rate.value:.3f} "
        f"({change.rate.low:.3f}–{change.rate.high:.3f}), {change.runs[0]} and {change.runs[1]} runs, "
        f"{'by rounds' if change.rate.by_rounds else 'independent'}"
        f"{f', most of it in {change.where.part}' if change.where else ''}"
    )


@click.command(help=__doc__.partition("\n")[0] if __doc__ else "")
@click.option("--trials", default=20, show_default=True)
@click.option("--repeats", default=8, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--share", default=0.1, show_default=True, help="Of a step, by which it is slowed.")
@click.option("--where", type=click.Choice(list(WHERE)), default="computing", show_default=True)
def main(trials: int, repeats: int, steps: int, share: float, where: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        made = Trials(where, steps, share, Path(temporary))
        changes = []
        for number in range(trials):
            changes.append(made.trial(number, repeats))
            for name, change in changes[-1].items():
                click.echo(told(number, name, change))
    slower = [each["slow"] for each in changes]
    wrong = sum(each["b"].verdict in ("faster", "slower") for each in changes)
    found = sum(each.verdict == "slower" for each in slower)
    named = sum(each.where is not None and each.where.part == where for each in slower)
    click.echo(f"over all trials, the slow-down was {1 - statistics.median(each.rate.value for each in slower):.1%}")
    click.echo(
        f"{wrong} of {trials} claim a difference where there is none; {found} of {trials} find the slow-down, "
        f"{named} of these in {where}"
    )


if __name__ == "__main__":
    main()
