"""How long a run takes to start: tasks that are forked beside fresh ones, in turn.

Run by ``make overhead-startup``. It is not a test, because it takes minutes and needs an idle machine. Start-up ends
when worker 0 is ready for its first step, as in the column ``startup_seconds`` of ``runs``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
from pathlib import Path

from conftest import make_spec
from rich.console import Console
from rich.table import Table
from stratbench.harness.launch.run import run_one
from stratbench.harness.launch.starter import Starter
from stratbench.results.tables.store import Store
from stratbench.strategies.registry import available

STRATEGIES = ["single", "mirrored", "multiworker", "ps", "ps:sync=true", "horovod"]


def startup_seconds(strategy: str, starter: Starter, store: Store, number: int) -> float:
    """Of one run. ``number`` makes it another run than those before."""
    replicas = available()[strategy.partition(":")[0]].max_replicas or 2
    record = run_one(
        make_spec(strategy, replicas, steps=50, seed=number),
        store,
        threading.Event(),
        lambda label, event: None,
        starter=starter,
    )
    if record.run["status"] != "ok":
        raise SystemExit(f"{strategy}: {record.run['reason']}")
    return float(record.run["startup_seconds"])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = Table("strategy", "forked s", "fresh s", "of the rounds, forked", "fresh", box=None)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in options.strategies}
    with tempfile.TemporaryDirectory() as folder, Starter() as forking, Store(Path(folder)) as store:
        fresh = Starter(forks=False)
        # The first run of a command waits for the fork server's imports.
        startup_seconds("single", forking, store, 10_000)
        for number in range(options.rounds):
            for name, (forked_seconds, fresh_seconds) in found.items():
                forked_seconds.append(startup_seconds(name, forking, store, 2 * number))
                fresh_seconds.append(startup_seconds(name, fresh, store, 2 * number + 1))
                print(f"{name}: {forked_seconds[-1]:.2f} and {fresh_seconds[-1]:.2f} s", file=sys.stderr)
    for name, both in found.items():
        rounds = [" ".join(f"{value:.2f}" for value in sorted(values)) for values in both]
        table.add_row(name, *(f"{statistics.median(values):.2f}" for values in both), *rounds)
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
