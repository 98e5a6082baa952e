"""Downpour with models that are cut over tasks, as in DistBelief: what it trains, what each task holds, its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import RATE, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.errors import UsageError
from stratbench.harness.launch.run import collect
from stratbench.harness.plan.task import NoPlace
from stratbench.results.raw.record import Record
from stratbench.strategies.registry import create

PARTS = "ps:mode=downpour,parts=2"


def run(folder: Path, strategy: str, replicas: int, **changes: Any) -> Record:
    spec = make_spec(strategy, replicas, **{"model": "mlp", "optimizer": "momentum", "steps": 30} | changes)
    return collect(spec, folder, launch(spec, folder))


def test_tasks_of_two_workers_of_three_parts() -> None:
    tasks = create("ps", {"mode": "downpour", "parts": "3"}).tasks(6, NoPlace())
    assert [(task.label, task.first_replica, task.replicas) for task in tasks if task.role != "ps"] == [
        ("worker-0", 0, 1),
        ("worker-1", 3, 1),
        ("part-0", 1, 1),
        ("part-1", 2, 1),
        ("part-2", 4, 1),
        ("part-3", 5, 1),
    ]


def test_parts_are_downpours_and_divide_the_replicas() -> None:
    with pytest.raises(UsageError, match="option parts of strategy ps is for mode=downpour"):
        create("ps", {"parts": "2"})
    strategy = create("ps", {"mode": "downpour", "parts": "2"})
    assert strategy.skip(4) is None and "ask for a multiple of it" in str(strategy.skip(3))
    assert strategy.divides(4) and not strategy.divides(2)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ",ps=3"])
def test_one_worker_trains_what_one_process_does(options: str, tmp_path: Path, no_strays: None) -> None:
    """Batch normalisation, too: nobody is asynchronous."""
    work = {"model": "norm_model:model", "optimizer": "momentum", "learning_rate": RATE["momentum"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        found = weights(PARTS + options, 2, folder=tmp_path / "run", **work)
        expected = weights("single", 1, folder=tmp_path / "single", **work)
    assert_same(found, expected, TOLERANCE["momentum"])


@pytest.mark.slow
def test_each_task_holds_its_part(tmp_path: Path, no_strays: None) -> None:
    record = run(tmp_path, PARTS, 4)
    assert record.run["status"] == "ok", record.run["reason"]
    held = {(task["role"], task["task"]): task for task in record.tasks}
    own = [held["worker", 0]["weights_bytes"], held["part", 0]["weights_bytes"]]
    assert sum(own) == held["ps", 0]["weights_bytes"] == 4 * 13_002 and min(own) > 0
    assert [held["worker", 1]["weights_bytes"], held["part", 1]["weights_bytes"]] == own
    assert record.run["traffic_bytes_measured"] == pytest.approx(record.run["traffic_bytes_expected"], rel=0.2)
    assert record.run["cut"]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_part_of_any_worker_can_be_slow(index: int, tmp_path: Path, no_strays: None) -> None:
    record = run(tmp_path, PARTS, 4, inject=[f"slow:part={index},seconds=0.05"])
    assert record.run["status"] == "ok", record.run["reason"]
    # The fastest steps: on a machine with other load, the other worker's median step may take as long.
    fastest = [np.min(record.steps["step_seconds"][record.steps["task"] == worker]) for worker in range(2)]
    assert fastest[index] > 0.05 > fastest[1 - index]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["part=1", "worker=1"])
def test_a_run_ends_when_a_part_is_killed(task: str, tmp_path: Path, no_strays: None) -> None:
    record = run(tmp_path, PARTS, 4, inject=[f"kill:{task},step=10"], steps=2000)
    assert record.run["status"] == "failed"
    assert f"{task.replace('=', '-')} was killed by SIGKILL" in record.run["reason"]


@pytest.mark.slow
def test_a_model_of_fewer_layers_is_skipped(tmp_path: Path) -> None:
    from stratbench.harness.worker.trial import attempt

    spec = make_spec("ps:mode=downpour,parts=12", 12, model="mlp")
    assert "layers can't be cut into 12 parts" in str(attempt(spec)["unfit"])
