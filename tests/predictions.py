"""How good ``stratbench predict`` is: runs of 1 and 2 replicas tell those of 3 and 4, which are then measured.

Run by ``make predictions``. It is not a test, because it takes a quarter of an hour and needs an idle machine. Each
replica is on a host of an emulated network (see `lab.hosts`), and its model sleeps in place of computing, so that four
of them don't wait for the cores of a small machine. What exchanging takes of the cores remains. Strategies with ps
tasks are left out: these are on the host of worker 0, so that its exchange takes no network, and that of others does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from conftest import launch, make_spec
from rich.console import Console
from rich.table import Table
from stratbench.harness.cli.commands import cli
from stratbench.harness.launch.run import collect, open_store
from stratbench.harness.plan.spec import RunSpec

sys.path.insert(0, str(Path(__file__).parent / "lab"))
from hosts import Hosts, prepare, unable

STRATEGIES = ["horovod", "multiworker", "allgather", "master-worker", "fsdp"]
WORK = {
    "model": "sleeping:make",
    "dataset": "synthetic:shape=28x28x1,classes=10,examples=12000",
    "global_batch": 120,
    "steps": 30,
    "optimizer": "momentum",
    "timeout": 600.0,
}
FEW, MORE = (1, 2), (3, 4)
SIZES = [(size, repeat) for repeat in range(3) for size in FEW] + [(size, 0) for size in MORE]
"""Numbers of replicas, each with its repeat. Three repeats make an interval."""


def step_seconds(one: RunSpec, output: Path, mbit: float) -> float:
    """Of a run on as many hosts as it has replicas, which is recorded in the output folder."""
    with Hosts(one.replicas, mbit) as hosts, open_store(output) as store:
        folder = output / "runs" / one.run_id
        made = collect(one, folder, launch(one, folder, place=hosts, starter=hosts))
        store.add(made)
    if made.run["status"] != "ok":
        raise SystemExit(f"{one.title}: {made.run['reason']}")
    return float(one.global_batch / made.run["examples_per_second"])


def predicted(output: Path) -> dict[int, dict[str, Any]]:
    """Replicas → what the command says of the only strategy in the folder."""
    asked = ["predict", str(output), "-n", ",".join(map(str, MORE)), "--json"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    if done.exit_code:
        raise SystemExit(done.output)
    (series,) = json.loads(done.stdout)
    return {size["replicas"]: size for size in series["sizes"]}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--mbit", type=float, default=200)
    options = parser.parse_args()
    why = unable()
    if why:
        print(f"predictions: skipped, {why}", file=sys.stderr)
        return
    prepare()
    table = Table("strategy", "replicas", "predicted ms", "95 % of runs", "measured ms", "error", "within", box=None)
    with tempfile.TemporaryDirectory() as temporary:
        measured = {}
        for size, repeat in SIZES:
            for number, strategy in enumerate(options.strategies):
                one = make_spec(strategy, size, **WORK).model_copy(update={"repeat": repeat})
                output = Path(temporary) / ("few" if size in FEW else "more") / str(number)
                measured[strategy, size] = step_seconds(one, output, options.mbit)
                print(f"{strategy} ×{size}: {measured[strategy, size] * 1000:.1f} ms", file=sys.stderr)
        for number, strategy in enumerate(options.strategies):
            said = predicted(Path(temporary) / "few" / str(number))
            for size in MORE:
                each, seconds = said[size], measured[strategy, size]
                low, high = each["step_seconds_low"], each["step_seconds_high"]
                cells = [f"{each['step_seconds'] * 1000:.1f}", f"{low * 1000:.1f}–{high * 1000:.1f}"]
                cells += [f"{seconds * 1000:.1f}", f"{each['step_seconds'] / seconds - 1:+.0%}"]
                table.add_row(strategy, str(size), *cells, "yes" if low <= seconds <= high else "no")
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
