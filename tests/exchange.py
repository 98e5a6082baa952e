"""What a step costs on a network: the step of each strategy beside computing and communicating by themselves.

Run by ``make overhead-exchange``. It is not a test, because it takes minutes and needs an idle machine. The network is
emulated: see `lab.hosts`. The floor is the forward pass and then the communication: nothing can be sent before the
first gradient exists, and the step waits for its own update. Where the cores that compute also do the network's work, a
step can't be shorter than both together either: "cores" is computing, and as long as communicating keeps a core busy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from conftest import launch, make_spec
from rich.console import Console
from rich.table import Table
from stratbench.results.raw import journal
from stratbench.strategies import registry

sys.path.insert(0, str(Path(__file__).parent / "lab"))
from hosts import Hosts, prepare, unable
from probe import Probe

PARTS = ("forward", "computing", "communicating")
STRATEGIES = [
    "horovod",
    "horovod:bucket_mib=all",
    "horovod:bucket_mib=0",
    "multiworker",
    "multiworker:pack_mib=1",
    "allgather",
    "master-worker",
    "fsdp",
    "ps:sync=true",
]
MODELS = ["mlp-wide", "deep:make"]
WARMUP = 5
BUSY_STEPS = 200
"""So many that two start-ups, which take seconds of CPU time each, may differ a little."""


def step_seconds(strategy: str, model: str, hosts: Hosts, replicas: int, batch: int, steps: int) -> float:
    """Median over the steps of a run, of the slowest worker's step."""
    work = {"model": model, "per_replica_batch": batch, "steps": steps, "optimizer": "momentum", "timeout": 300.0}
    spec = make_spec(strategy, replicas, dataset="synthetic:shape=28x28x1,classes=10,examples=12000", **work)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        outcome = launch(spec, path, place=hosts, starter=hosts)
        if outcome.status != "ok":
            raise SystemExit(f"{strategy}: {outcome.reason}")
        logs = [journal.read(log) for log in path.glob("worker-*.jsonl")]
        slowest = np.max([log.steps["step_seconds"][WARMUP:steps] for log in logs], axis=0)
        return float(np.median(slowest))


def busy_seconds(model: str, hosts: Hosts, replicas: int, batch: int) -> float:
    """How long a step's communicating keeps each core busy, in all programs and the kernel.

    A long run less a short one, so that what is not a step is in neither.
    """
    found = []
    for steps in (2 * WARMUP, 2 * WARMUP + BUSY_STEPS):
        before = psutil.cpu_times()
        step_seconds("probe:part=communicating", model, hosts, replicas, batch, steps)
        after = psutil.cpu_times()
        found.append(sum(getattr(after, name) - getattr(before, name) for name in ("user", "system", "irq", "softirq")))
    return (found[1] - found[0]) / BUSY_STEPS / min(replicas, psutil.cpu_count() or 1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--mbit", nargs="+", type=float, default=[1000, 200])
    parser.add_argument("--replicas", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64, help="per replica")
    options = parser.parse_args()
    why = unable()
    if why:
        print(f"exchange: skipped, {why}", file=sys.stderr)
        return
    registry.available()[Probe.name] = Probe
    prepare()
    names = ["strategy", "model", "replicas", "Mbit/s", "step ms", *(f"{part} ms" for part in PARTS)]
    table = Table(*names, "floor ms", "cores ms", "step ÷ floor", "of the rounds", "step ÷ cores", box=None)
    for model, replicas, mbit in (
        (model, replicas, mbit) for model in options.models for replicas in options.replicas for mbit in options.mbit
    ):
        runs = [f"probe:part={part}" for part in PARTS] + options.strategies
        found: dict[str, list[float]] = {run: [] for run in runs}
        with Hosts(replicas, mbit) as hosts:
            for number in range(options.rounds):
                # Another order in each round, so that a slow drift of the machine favours none.
                for run in runs[number % len(runs) :] + runs[: number % len(runs)]:
                    found[run].append(step_seconds(run, model, hosts, replicas, options.batch, options.steps))
                    print(f"{run} {model} ×{replicas} {mbit:g} Mbit/s: {found[run][-1] * 1000:.1f} ms", file=sys.stderr)
            busy = busy_seconds(model, hosts, replicas, options.batch)
        parts = [np.array(found[run]) for run in runs[: len(PARTS)]]
        floor, cores = parts[0] + parts[2], parts[1] + busy
        for run in options.strategies:
            ratios, of_cores = (np.array(found[run]) / least for least in (floor, cores))
            middle = [statistics.median(values) * 1000 for values in (found[run], *parts, floor, cores)]
            cells = [run, model, str(replicas), f"{mbit:g}", *(f"{value:.1f}" for value in middle)]
            rounds = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
            table.add_row(*cells, f"{statistics.median(ratios):.2f}", rounds, f"{statistics.median(of_cores):.2f}")
    console = Console()
    console.width = max(console.width, 200)
    console.print(table)


if __name__ == "__main__":
    main()
