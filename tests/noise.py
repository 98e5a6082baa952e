"""How often ``stratbench diff`` is wrong: a run against itself, and against itself with a slow-down put in on purpose.

    make noise ARGS="--trials 20 --repeats 8 --where input"

A trial makes rounds of three runs of the same spec. In each, every step sleeps: while it computes (``--inject slow``),
before each batch, or before each exchange. Two runs sleep as short as they can, so what calling a sleep costs is in
them too, and the third one longer, by a known share of a step. Then ``diff`` compares the folders that they are in.
Prints how many of the trials claim a difference where there is none, how many find the one that is there, and how many
of these name the part of the step where it is. Of several places, the trials take one after the other.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
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
WORK: dict[str, Any] = {"model": "cnn", "dataset": DATASET, "global_batch": 64, "cores_per_replica": 1}
WHERE = {"computing": ("single", 1), "input": ("single", 1), "communicating": ("allreduce", 2)}
"""With the strategy and the replicas that it is put into."""
SHORTEST_SECONDS = 1e-6
FIRST_RUNS = 9
"""Of which a step's duration is taken."""
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


def spec(where: str, steps: int, seconds: float) -> RunSpec:
    strategy, replicas = WHERE[where]
    inject = [f"slow:worker=0,seconds={seconds:.6f}"] if where == "computing" else []
    grid = Experiment(strategies=[strategy], replicas=[replicas], steps=steps, inject=inject, **WORK)
    return grid.expand()[0]


class Runs:
    """Of ``steps`` steps, with a sleep in each. The runs "slow" sleep ``seconds`` longer than others.

    Each of the two has a fork server, as what is planted is there from a server's start.
    """

    def __init__(self, where: str, steps: int, seconds: float, starters: Sequence[Starter]):
        self._where, self._steps, self._seconds = where, steps, seconds
        self._plain, self._slow = starters

    def run(self, name: str, repeat: int, folder: Path) -> float:
        """One run, kept in the folder ``name``. Returns the median of its steps, in seconds."""
        slow = name == "slow"
        seconds = SHORTEST_SECONDS + (self._seconds if slow else 0.0)
        one = spec(self._where, self._steps, seconds).model_copy(update={"repeat": repeat})
        with planted(self._where, seconds), open_store(folder / name) as store:
            starter = self._slow if slow else self._plain
            record = run_one(one, store, threading.Event(), lambda label, event: None, starter=starter)
        assert record.run["status"] == "ok", record.run["reason"]
        return float(record.run["step_seconds_median"])


@contextmanager
def runs(where: str, steps: int, seconds: float = 0.0) -> Iterator[Runs]:
    """See `Runs`."""
    with Starter() as plain, Starter() as slow:
        yield Runs(where, steps, seconds, [plain, slow])


def step_seconds(where: str, steps: int, folder: Path) -> float:
    """Of a run that is not slowed."""
    with runs(where, steps) as made:
        return statistics.median(made.run("first", repeat, folder) for repeat in range(FIRST_RUNS))


def trial(where: str, steps: int, seconds: float, repeats: int, folder: Path) -> dict[str, difference.Change]:
    """``b`` and ``slow`` against ``a``, each of ``repeats`` runs."""
    names = ["a", "b", "slow"]
    with runs(where, steps, seconds) as made:
        for repeat in range(repeats):
            # Turned, so that a slow drift of the machine favours none.
            for name in names[repeat % 3 :] + names[: repeat % 3]:
                made.run(name, repeat, folder)
    # For diff, runs with other faults are another spec: here the fault is what is to be found.
    tables = {name: load(folder / name).runs.assign(inject="") for name in names}
    found = {}
    for name in ("b", "slow"):
        (found[name],) = difference.between_folders(tables["a"], tables[name], 0.05)
    return found


def told(number: int, where: str, name: str, change: difference.Change) -> str:
    return (
        f"{number + 1:3d} {where:13s} {name:4s} {change.verdict:20s} {change.rate.value:.3f} "
        f"({change.rate.low:.3f}–{change.rate.high:.3f}), {change.runs[0]} and {change.runs[1]} runs, "
        f"{'by rounds' if change.rate.by_rounds else 'independent'}"
        f"{f', most of it in {change.where.part}' if change.where else ''}"
    )


@click.command(help=__doc__.partition("\n")[0] if __doc__ else "")
@click.option("--trials", default=20, show_default=True)
@click.option("--repeats", default=8, show_default=True)
@click.option("--steps", default=400, show_default=True)
@click.option("--share", default=0.1, show_default=True, help="Of a step, by which it is slowed.")
@click.option(
    "--where",
    type=click.Choice(list(WHERE)),
    multiple=True,
    default=list(WHERE),
    show_default=True,
    help="May be repeated.",
)
def main(trials: int, repeats: int, steps: int, share: float, where: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        seconds = {}
        for place in where:
            step = step_seconds(place, steps, Path(temporary) / place)
            seconds[place] = share * step
            click.echo(f"{place}: a step takes {step * 1000:.2f} ms; {seconds[place] * 1000:.2f} ms are put in")
        places = [where[number % len(where)] for number in range(trials)]
        changes = []
        for number, place in enumerate(places):
            changes.append(trial(place, steps, seconds[place], repeats, Path(temporary) / str(number)))
            for name, change in changes[-1].items():
                click.echo(told(number, place, name, change))
    slower = [each["slow"] for each in changes]
    wrong = sum(each["b"].verdict in ("faster", "slower") for each in changes)
    found = sum(each.verdict == "slower" for each in slower)
    pairs = zip(slower, places, strict=True)
    named = sum(each.where is not None and each.where.part == place for each, place in pairs)
    click.echo(f"over all trials, the slow-down was {1 - statistics.median(each.rate.value for each in slower):.1%}")
    click.echo(
        f"{wrong} of {trials} claim a difference where there is none; {found} of {trials} find the slow-down, "
        f"{named} of these where it is"
    )


if __name__ == "__main__":
    main()
