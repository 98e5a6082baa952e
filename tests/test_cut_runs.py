"""Cut models as real processes: the same weights as one, what each holds and sends, the bubble, and faults of parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import DATASET, RATE, STEPS, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.harness.launch.run import collect
from stratbench.results.raw.record import Record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("beside_the_models", "no_strays")]


def exhaustive(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.exhaustive)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory):
    known: dict[tuple[str, str], list[np.ndarray]] = {}

    def get(model: str, optimizer: str) -> list[np.ndarray]:
        if (model, optimizer) not in known:
            folder = tmp_path_factory.mktemp("single") / "run"
            known[model, optimizer] = weights("single", 1, model, optimizer, folder)
        return known[model, optimizer]

    return get


@pytest.mark.parametrize(
    ("strategy", "replicas", "model", "optimizer"),
    [
        ("model-parallel", 3, "residual", "momentum"),
        exhaustive("model-parallel", 2, "residual", "adam"),
        exhaustive("pipeline:micro_batches=1", 2, "residual", "adam"),
        ("model-parallel", 2, "dropped", "momentum"),
        # A regulariser that has a tensor.
        ("ps:sync=true", 1, "nested", "momentum"),
        ("ps:sync=true", 1, "twins", "momentum"),
        exhaustive("model-parallel:cut=flatten", 2, "dropped", "adam"),
        exhaustive("pipeline:parts=2,micro_batches=2,schedule=1f1b", 4, "nested", "adam"),
    ],
)
def test_parts_train_what_one_process_does(
    strategy: str, replicas: int, model: str, optimizer: str, single: Any, tmp_path: Path
) -> None:
    """Also statistics of batches, and masks of dropout, as there is only one micro-batch."""
    found = weights(strategy, replicas, f"cut_models:{model}", optimizer, tmp_path / "run")
    assert_same(found, single(f"cut_models:{model}", optimizer), TOLERANCE[optimizer])


def run(folder: Path, strategy: str, replicas: int, **changes: Any) -> Record:
    settings = {"model": "cut_models:equal", "dataset": DATASET, "optimizer": "momentum", "steps": STEPS} | changes
    spec = make_spec(strategy, replicas, learning_rate=RATE["momentum"], **settings)
    return collect(spec, folder, launch(spec, folder))


def test_each_task_holds_its_part_and_the_row_says_what_crosses(tmp_path: Path) -> None:
    cut = "dense_1+dense_3+dense_5"
    record = run(tmp_path, f"pipeline:cut={cut},schedule=1f1b,micro_batches=4", 4)
    assert record.run["status"] == "ok", record.run["reason"]
    tasks = {f"{task['role']}-{task['task']}": task for task in record.tasks}
    layer = 4 * (784 * 784 + 784)
    held = [tasks[name]["weights_bytes"] for name in ("worker-0", "part-1", "part-2", "part-3")]
    assert held == [2 * layer, 2 * layer, 2 * layer, 2 * layer + 4 * 7850]
    assert [task["optimizer_bytes"] for task in tasks.values()] == [task["weights_bytes"] for task in tasks.values()]
    kept = [tasks[name]["activation_bytes"] for name in ("worker-0", "part-1", "part-2", "part-3")]
    assert kept[1] / kept[2] == 1.5 and kept[0] > kept[1] > kept[2] > kept[3]
    assert tasks["worker-0"]["examples"] == 48 * (STEPS - 2) and not tasks["part-1"]["examples"]
    assert record.run["examples_done"] == 48 * STEPS
    ends = [part.partition(" ")[0] for part in record.run["cut"].split(", ")]
    assert (ends, record.run["bubble_expected"]) == ([*cut.split("+"), "last"], 3 / 7)
    assert 0 < record.run["bubble"] < 1
    assert 0 < record.run["depth_seconds"] < record.run["work_seconds"]
    # Half of them forward, half of them back, and the labels.
    assert record.run["traffic_bytes_expected"] == pytest.approx(STEPS * 48 * 784 * 4 * 2, rel=0.01)
    assert record.run["traffic_bytes_measured"] == pytest.approx(record.run["traffic_bytes_expected"], rel=0.1)


def test_parts_are_balanced_by_what_they_cost(tmp_path: Path) -> None:
    record = run(tmp_path, "model-parallel", 4, global_batch=240)
    assert record.run["status"] == "ok", record.run["reason"]
    whole = 4 * (8 * (784 * 784 + 784) + 7850)
    assert max(task["weights_bytes"] for task in record.tasks) <= 0.5 * whole


@pytest.mark.parametrize(
    ("parts", "micro_batches", "schedule"),
    [
        (2, 4, "1f1b"),
        *[exhaustive(parts, count, name) for parts in (2, 4) for count in (2, 4, 8) for name in ("gpipe", "1f1b")],
    ],
)
def test_the_bubble_is_that_of_theory(parts: int, micro_batches: int, schedule: str, tmp_path: Path) -> None:
    """Parts that share cores can't show it by computing, so all of them sleep."""
    layers = {2: "dense_3", 4: "dense_1+dense_3+dense_5"}[parts]
    slow = tuple(f"slow:{'part' if part else 'worker'}={part},seconds={0.2 * micro_batches:g}" for part in range(parts))
    strategy = f"pipeline:cut={layers},micro_batches={micro_batches},schedule={schedule}"
    record = run(tmp_path, strategy, parts, inject=slow, steps=6)
    assert record.run["status"] == "ok", record.run["reason"]
    expected = (parts - 1) / (micro_batches + parts - 1)
    assert record.run["bubble_expected"] == pytest.approx(expected)
    assert record.run["bubble"] == pytest.approx(expected, rel=0.15)
    assert record.run["step_seconds_median"] > 0.2 * (micro_batches + parts - 1)


@pytest.mark.parametrize("role", ["part=1", exhaustive("part=2"), exhaustive("worker=0")])
def test_a_task_that_dies_ends_the_run(role: str, tmp_path: Path) -> None:
    begin = time.time()
    record = run(tmp_path, "model-parallel", 3, inject=(f"kill:{role},step=5",), steps=100_000)
    assert record.run["status"] == "failed"
    assert f"{role.replace('=', '-')} was killed by SIGKILL" in record.run["reason"]
    assert record.run["noticed_seconds"] < 10 and time.time() - begin < 60


def test_a_part_that_pauses_holds_up_all(tmp_path: Path) -> None:
    record = run(tmp_path, "model-parallel", 2, inject=("pause:part=1,step=5,seconds=1.5",), steps=8)
    assert record.run["status"] == "ok", record.run["reason"]
    assert record.run["step_seconds_max"] > 1.5 > 2 * record.run["step_seconds_median"]


def test_a_part_that_is_slow_by_a_factor(tmp_path: Path) -> None:
    record = run(tmp_path, "model-parallel", 2, inject=("slow:part=1,factor=20",), steps=20)
    assert record.run["status"] == "ok", record.run["reason"]
    assert record.run["step_seconds_max"] > 5 * record.run["step_seconds_min"]


@pytest.mark.parametrize(
    ("model", "strategy", "words"),
    [
        ("own", "model-parallel", "only functional and sequential models can be cut into parts"),
        ("shared", "pipeline:cut=between", "layer twice is used on both sides of a cut"),
    ],
)
def test_what_cant_be_cut_has_a_row_that_says_so(model: str, strategy: str, words: str, tmp_path: Path) -> None:
    record = run(tmp_path, strategy, 2, model=f"cut_models:{model}")
    assert record.run["status"] == "failed"
    assert words in record.run["reason"] and "\n" not in record.run["reason"]
