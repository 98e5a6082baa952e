"""How good ``stratbench predict`` is: runs of 1 and 2 replicas tell those of 3 and 4, which are then measured.

Run by ``make predictions``. It is not a test, because it takes a quarter of an hour and needs an idle machine. Each
replica is on a host of an emulated network (see `lab.hosts`), and its model sleeps in place of computing, so that four
of them don't wait for the cores of a small machine. What exchanging takes of the cores remains. Strategies with ps
tasks are left out: these are on the host of worker 0, so that its exchange takes no network, and that of others does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from conftest import launch
from rich.console import Console
from rich.table import Table
from stratbench.harness.cli.commands import cli
from stratbench.harness.launch import launcher
from stratbench.harness.launch.run import collect, open_store
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.spec import RunSpec

LAB = Path(__file__).parent / "lab"
sys.path.insert(0, str(LAB))
from hosts import Hosts, unable  # noqa: E402

STRATEGIES = ["horovod", "multiworker", "allgather", "master-worker", "fsdp"]
FEW, MORE = (1, 2), (3, 4)


def spec(strategy: str, replicas: int, repeat: int, options: argparse.Namespace) -> RunSpec:
    """A run of the sleeping model."""
    (one,) = Experiment(
        strategies=[strategy],
        replicas=[replicas],
        model="sleeping:make",
        dataset="synthetic:shape=28x28x1,classes=10,examples=12000",
        global_batch=options.batch,
        steps=options.steps,
        cores_per_replica=1,
        optimizer="momentum",
        timeout=600.0,
    ).expand()
    return one.model_copy(update={"repeat": repeat})


def step_seconds(one: RunSpec, output: Path, mbit: float) -> float:
    """Of a run on as many hosts as it has replicas, which is recorded in the output folder."""
    with Hosts(one.replicas, mbit) as hosts, open_store(output) as store:
        folder = output / "runs" / one.run_id
        made = collect(one, folder, launch(one, folder, threading.Event(), place=hosts, starter=hosts))
        store.add(made)
    if made.run["status"] != "ok":
        raise SystemExit(f"{one.title}: {made.run['reason']}")
    return float(one.global_batch / made.run["examples_per_second"])


def predicted(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Strategy with its options as JSON, and replicas → what the command says."""
    asked = ["predict", str(output), "-n", ",".join(str(size) for size in MORE), "--json"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    if done.exit_code:
        raise SystemExit(done.output)
    series = json.loads(done.stdout)
    return {(each["strategy"], size["replicas"]): size for each in series for size in each["sizes"]}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--mbit", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=3, help="of 1 and 2 replicas; 3 and 4 have one")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=120, help="of all replicas")
    options = parser.parse_args()
    why = unable()
    if why:
        print(f"predictions: skipped, {why}", file=sys.stderr)
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(LAB), os.environ.get("PYTHONPATH", "")]).rstrip(":")
    # The launcher is on none of the hosts; `Hosts` starts the tasks where they belong.
    launcher.is_here = lambda host: True
    sizes = [(size, repeat) for repeat in range(options.repeats) for size in FEW] + [(size, 0) for size in MORE]
    table = Table("strategy", "replicas", "predicted ms", "95 % of runs", "measured ms", "error", "within", box=None)
    with tempfile.TemporaryDirectory() as temporary:
        few, measured = Path(temporary) / "few", {}
        for size, repeat in sizes:
            for strategy in options.strategies:
                output = few if size in FEW else Path(temporary) / "more"
                found = step_seconds(spec(strategy, size, repeat, options), output, options.mbit)
                print(f"{strategy} ×{size}: {found * 1000:.1f} ms", file=sys.stderr)
                measured[strategy, size] = found
        said = predicted(few)
        for strategy in options.strategies:
            for size in MORE:
                each, seconds = said[strategy.partition(":")[0], size], measured[strategy, size]
                low, high = each["step_seconds_low"], each["step_seconds_high"]
                cells = [f"{each['step_seconds'] * 1000:.1f}", f"{low * 1000:.1f}–{high * 1000:.1f}"]
                cells += [f"{seconds * 1000:.1f}", f"{each['step_seconds'] / seconds - 1:+.0%}"]
                table.add_row(strategy, str(size), *cells, "yes" if low <= seconds <= high else "no")
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
