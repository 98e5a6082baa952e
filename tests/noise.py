"""How often ``stratbench diff`` is wrong: a run against itself, and against itself with a slow-down put in on purpose.

    make noise ARGS="--trials 20 --repeats 8"

A trial makes rounds of three runs of the same spec: one for each of two folders that don't differ, and one with
``--inject slow``, whose sleeping adds a known share to each step. Then ``diff`` compares the folders. Prints how many
of the trials claim a difference where there is none, how many find the one that is there, and how many of these name
computing, which is where it is.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import click
from stratbench.harness.launch.run import open_store, run_one
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.spec import RunSpec
from stratbench.results import load
from stratbench.results.analysis import difference

DATASET = "synthetic:shape=28x28x1,classes=10,examples=2400"
"""Small, so that runs are short."""
WORK = {"model": "cnn", "dataset": DATASET, "global_batch": 64, "cores_per_replica": 1}


def spec(steps: int, inject: str = "") -> RunSpec:
    chosen = [inject] if inject else []
    return Experiment(strategies=["single"], steps=steps, inject=chosen, **WORK).expand()[0]


def one_run(one: RunSpec, folder: Path, starter: Starter) -> dict[str, Any]:
    with open_store(folder) as store:
        record = run_one(one, store, threading.Event(), lambda label, event: None, starter=starter)
    assert record.run["status"] == "ok", record.run["reason"]
    return record.run


def trial(folder: Path, specs: dict[str, RunSpec], repeats: int, starter: Starter) -> dict[str, difference.Change]:
    """``b`` and ``slow`` against ``a``, each of ``repeats`` runs."""
    for repeat in range(repeats):
        # The order of a round turns, as that of `compare` does.
        names = list(specs)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            one_run(specs[name].model_copy(update={"repeat": repeat}), folder / name, starter)
    tables = {name: load(folder / name).runs for name in specs}
    # For diff, runs with faults are another spec: here the fault is what is to be found.
    tables["slow"] = tables["slow"].assign(inject="")
    found = {}
    for name in ("b", "slow"):
        (found[name],) = difference.between_folders(tables["a"], tables[name], 0.05)
    return found


@click.command(help=__doc__.partition("\n")[0] if __doc__ else "")
@click.option("--trials", default=20, show_default=True)
@click.option("--repeats", default=8, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--share", default=0.1, show_default=True, help="Of a step, by which it is slowed.")
def main(trials: int, repeats: int, steps: int, share: float) -> None:
    with tempfile.TemporaryDirectory() as temporary, Starter() as starter:
        folder = Path(temporary)
        first = spec(steps)
        medians = {}
        for inject in ("", "slow:worker=0,seconds=0.000001"):
            specs = (spec(steps, inject).model_copy(update={"repeat": each}) for each in range(5))
            runs = [one_run(each, folder / "first", starter) for each in specs]
            medians[inject] = statistics.median(run["step_seconds_median"] for run in runs)
        step, delayed = medians.values()
        # Calling the sleep takes time, too.
        sleep = share * step - (delayed - step)
        if sleep <= 0:
            raise click.ClickException(f"--share must be more than calling a sleep takes. Received: {share}.")
        slow = spec(steps, f"slow:worker=0,seconds={sleep:.6f}")
        click.echo(f"a step takes {step * 1000:.2f} ms; {share:.0%} is put in, {sleep * 1000:.2f} ms of it by sleeping")
        wrong, found, named = 0, 0, 0
        ratios = []
        for number in range(trials):
            changes = trial(folder / str(number), {"a": first, "b": first, "slow": slow}, repeats, starter)
            same, slower = changes["b"], changes["slow"]
            wrong += same.verdict in ("faster", "slower")
            found += slower.verdict == "slower"
            named += slower.where is not None and slower.where.part == "computing"
            ratios.append(slower.rate.value)
            for name, change in changes.items():
                click.echo(
                    f"{number + 1:3d} {name:4s} {change.verdict:20s} {change.rate.value:.3f} "
                    f"({change.rate.low:.3f}–{change.rate.high:.3f}), {change.runs[0]} and {change.runs[1]} runs, "
                    f"{'by rounds' if change.rate.by_rounds else 'independent'}"
                    f"{f', most of it in {change.where.part}' if change.where else ''}"
                )
        click.echo(f"over all trials, the slow-down was {1 - statistics.median(ratios):.1%}")
        click.echo(
            f"{wrong} of {trials} claim a difference where there is none; {found} of {trials} find the slow-down, "
            f"{named} of these in computing"
        )


if __name__ == "__main__":
    main()
