"""What the tables say of faults, from journals made by hand; and that runs with faults are compared apart."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from stratbench.results import schema
from stratbench.results.analysis import comparison as analysis
from stratbench.results.raw import faults, journal
from stratbench.results.showing.terminal import render

KILL = "kill:worker=1,step=3"
STRUCK = {"fault": KILL, "kind": "kill", "task": "worker-1", "step": 3}
START = {"pid": 1, "host": "h", "role": "worker", "replicas": 1, "cores": [0], "attempt": 0}


def worker(folder: Path, index: int, steps: int, **events: Any) -> journal.TaskLog:
    """A worker of 10 steps that took ``steps``; ``injected=…`` and the like are events before its end."""
    writer = journal.Journal(folder / f"worker-{index}.jsonl")
    writer.event("start", rank=index, index=index, **START)
    writer.event("ready", total_steps=10)
    for step in range(steps):
        writer.step(0, step, 0.1, 0.0, 8, 1.0, False, 1.0)
    for name, fields in events.items():
        writer.event(name, **fields)
    writer.close()
    return journal.read(writer.path)


def loss(log: journal.TaskLog, seconds: float, reaction: str) -> dict[str, Any]:
    (event,) = log.injected
    return {
        "label": log.label,
        "how": "killed by SIGKILL",
        "noticed": event["time"] + seconds,
        "reaction": reaction,
    }


def test_a_loss_is_counted_in_steps_and_seconds(tmp_path: Path) -> None:
    logs = [worker(tmp_path, 0, 10), worker(tmp_path, 1, 3, injected=STRUCK)]
    row = faults.run([KILL], "ok", logs, [loss(logs[1], 0.25, "the others went on")])
    assert row["fault"] == "worker-1 was killed by SIGKILL before step 3, noticed after 0.25 s; the others went on"
    assert row["noticed_seconds"] == pytest.approx(0.25)
    assert (row["lost_steps"], row["lost_share"]) == (7, 0.35)
    assert math.isnan(row["down_seconds"])


def test_a_run_that_ended_by_it_has_lost_all_and_counts_nothing(tmp_path: Path) -> None:
    logs = [worker(tmp_path, 0, 3), worker(tmp_path, 1, 3, injected=STRUCK)]
    row = faults.run([KILL], "failed", logs, [loss(logs[1], 0.25, "the run ended")])
    assert "the run ended" in row["fault"] and "lost_steps" not in row


def test_a_task_that_comes_back_is_down_until_it_is_ready(tmp_path: Path) -> None:
    worker(tmp_path, 1, 3, injected=STRUCK)
    writer = journal.Journal(tmp_path / "worker-1.jsonl", append=True)
    writer.event("start", rank=1, index=1, **START | {"attempt": 1})
    writer.event("ready", total_steps=10)
    for step in range(2, 10):
        writer.step(0, step, 0.1, 0.0, 8, 1.0, False, 1.0)
    writer.close()
    log = journal.read(writer.path)
    row = faults.run([KILL], "ok", [worker(tmp_path, 0, 10), log], [loss(log, 0.0, "it was started again")])
    # Step 2 was done twice.
    assert len(log.steps) == 11 and row["lost_steps"] == 0
    assert log.ready is not None
    assert row["down_seconds"] == pytest.approx(log.ready["time"] - log.injected[0]["time"])


def test_steps_that_a_restoration_undid_are_lost_too(tmp_path: Path) -> None:
    undone = {"update": 12, "steps": 4, "seconds": 1.5, "by_this": True}
    logs = [worker(tmp_path, 0, 10, restored=undone), worker(tmp_path, 1, 10, restored=undone | {"by_this": False})]
    row = faults.run(["kill:ps=0,step=5"], "ok", logs, [])
    assert row["fault"].count("went on from update 12 after 1.5 s, 4 steps undone") == 1
    assert (row["lost_steps"], row["down_seconds"]) == (8, 1.5)


def test_what_was_never_due_is_said(tmp_path: Path) -> None:
    row = faults.run(["kill:worker=1,step=99"], "ok", [worker(tmp_path, 0, 10)], [])
    assert row["fault"] == "not injected: kill:worker=1,step=99" and "lost_steps" not in row


def test_a_torn_line_before_a_restart_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.jsonl"
    path.write_bytes(b'{"event": "epoch", "time": 1.0, "epoch": 0}\n{"event": "epo')
    writer = journal.Journal(path, append=True)
    writer.event("epoch", epoch=1)
    writer.close()
    assert [event["epoch"] for event in journal.read(path).epochs] == [0, 1]


def runs(*rows: dict[str, Any]) -> pd.DataFrame:
    same = {"model": "mlp", "dataset": "d", "split": "s", "optimizer": "sgd", "cores_per_replica": 1, "options": "{}"}
    shape = {"global_batch": 32, "per_replica_batch": 16, "replicas": 2, "status": "ok", "steps": 10.0}
    return pd.DataFrame(
        [
            schema.row("runs", same | shape | {"run_id": f"ps-n2-{index}-r0", "strategy": "ps"} | row)
            for index, row in enumerate(rows)
        ]
    )


def test_runs_with_faults_are_set_against_runs_without_only_when_asked() -> None:
    table = runs(
        {"strategy": "single", "replicas": 1, "per_replica_batch": 32, "examples_per_second": 100.0},
        {"examples_per_second": 150.0},
        {
            "examples_per_second": 50.0,
            "inject": KILL,
            "fault": "worker-1 was killed",
            "lost_steps": 7.0,
            "lost_share": 0.35,
        },
    )
    apart = analysis.compare(table).set_index("inject")
    assert apart.loc[KILL, "base"] == "ps×2" and apart.loc[KILL, "speedup"] == 1.0
    across = analysis.compare(table, across_faults=True).set_index("inject")
    assert across.loc[KILL, "base"] == "single×1" and across.loc[KILL, "speedup"] == 0.5

    def printed(across_faults: bool) -> str:
        console = Console(file=io.StringIO(), width=300)
        render(table, console, across_faults)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert printed(False).count("mlp on d") == 2 and f"with {KILL}" in printed(False)
    assert printed(True).count("mlp on d") == 1
    assert "ps ×2 faults: worker-1 was killed; 7 steps lost (35.0%)" in printed(False)
