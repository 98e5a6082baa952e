"""The overhead of stratbench's loop: its median step compared with the shortest hand-written loop, in one session.

Run by ``make overhead-steps``. It is not a test, because it takes minutes and needs an idle machine. Goal: at most 1.03
on cnn, 1.10 on mlp. `single` is compared with Keras's own ``fit``, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from conftest import STARTER, launch, make_spec
from rich.console import Console
from rich.table import Table
from stratbench.harness.launch.ports import Ports
from stratbench.harness.launch.preparing import Preparing
from stratbench.results.raw import journal
from stratbench.strategies.base import THIS_HOST
from stratbench.strategies.collectives.horovod import Horovod
from stratbench.strategies.registry import available

HANDWRITTEN = ["horovod", "mirrored", "multiworker", "ps", "single"]
"""The strategies with a loop in `handwritten`."""
BY_HAND = {"cnn": 200, "mlp": 2000}
"""The models of these loops, and steps of a round."""
FIT = "fit"
"""Not one of them: `single` is compared with Keras's own loop, on all models."""

WARMUP = 10
HERE = Path(__file__).parent


def ours(strategy: str, model: str, replicas: int, batch: int, steps: int) -> float:
    """Median step seconds over all workers of a run with stratbench."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        data = {"dataset": "mnist-12k"}
        if model not in BY_HAND:
            file = Preparing(Path(folder), STARTER, 60.0, lambda line: None).file("synthetic", model, "")
            data = {"dataset": "synthetic:examples=2000", "data_file": file}
        spec = make_spec(strategy, replicas, model=model, **data, global_batch=batch, steps=steps, optimizer="momentum")
        outcome = launch(spec, path)
        if outcome.status != "ok":
            raise SystemExit(f"{strategy}: {outcome.reason}")
        logs = [journal.read(log) for log in path.glob("worker-*.jsonl")]
        return float(np.median(np.concatenate([log.steps["step_seconds"][WARMUP:] for log in logs])))


def handwritten(strategy: str, model: str, replicas: int, batch: int, steps: int) -> float:
    """The same for the loop in handwritten.py."""
    arguments = [sys.executable, str(HERE / "handwritten.py"), strategy, model, str(batch), str(steps)]
    with Ports() as ports:
        addresses = [ports.address(THIS_HOST) for _ in range(replicas + (strategy == "ps"))]
        if strategy == "horovod":
            prefix = Horovod(launcher="horovodrun").tasks(replicas, ports)[0].command
            commands = [[*prefix, *arguments, "0", str(replicas)]]
        else:
            workers = 1 if strategy in ("single", "mirrored") else replicas
            commands = [[*arguments, str(index), str(replicas), *addresses] for index in range(workers)]
        server = None
        if strategy == "ps":
            server = subprocess.Popen([*arguments, "-1", str(replicas), *addresses], stderr=subprocess.DEVNULL)
        try:
            running = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                for command in commands
            ]
            printed = [process.communicate(timeout=300)[0] for process in running]
        finally:
            if server:
                server.kill()
                server.wait()
    lines = [line.partition("SECONDS ")[2] for text in printed for line in text.splitlines() if "SECONDS " in line]
    return statistics.median(second for line in lines for second in json.loads(line)[WARMUP:])


def by_fit(strategy: str, model: str, replicas: int, batch: int, steps: int) -> float:
    """The same for Keras's own ``fit``."""
    return ours(strategy, model, replicas, batch, steps)


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*BY_HAND, "resnet20", "transformer", "recsys:rows=100000"])
    parser.add_argument("--strategies", nargs="+", choices=[*HANDWRITTEN, FIT], default=[*HANDWRITTEN, FIT])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    table = Table(
        "strategy", "model", "replicas", "other loop ms", "stratbench ms", "ratio", "ratios of the rounds", box=None
    )
    for model in options.models:
        steps = BY_HAND.get(model, 30)
        for strategy in options.strategies:
            if model not in BY_HAND and strategy != FIT:
                continue
            replicas = available()[strategy].max_replicas or 2
            work = (model, replicas, options.batch, steps)
            other = by_fit if strategy == FIT else handwritten
            pairs = []
            for number in range(options.rounds):
                # Alternate which one runs first, so that a slow drift of the machine favours neither.
                both = [other, ours] if number % 2 else [ours, other]
                found = {
                    measure: measure("single" if measure is ours and strategy == FIT else strategy, *work)
                    for measure in both
                }
                pairs.append((found[other], found[ours]))
            ratios = sorted(mine / theirs for theirs, mine in pairs)
            theirs, mine = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
            spread = " ".join(f"{ratio:.3f}" for ratio in ratios)
            table.add_row(
                "single to fit" if strategy == FIT else strategy,
                model,
                str(replicas),
                f"{theirs:.3f}",
                f"{mine:.3f}",
                f"{statistics.median(ratios):.3f}",
                spread,
            )
            print(f"{strategy} {model}: {statistics.median(ratios):.3f}", file=sys.stderr)
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
