"""The contract carries what no strategy of today does: see `strategies.base`, and the strategies in throw_away/."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import DATASET, RATE, SYNCHRONOUS, TOLERANCE, assert_same
from conftest import kept, launch, make_spec
from stratbench.errors import RunError
from stratbench.harness.launch.launcher import Launch
from stratbench.harness.launch.ports import Ports, is_here
from stratbench.harness.launch.run import collect
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.results.raw import journal
from stratbench.strategies import registry
from stratbench.strategies.base import Task

THROW_AWAY = Path(__file__).parent / "throw_away"
STEPS = 20


class Loopback(Ports):
    """Each replica on an address of its own, all of which are this machine's."""

    def host(self, replica: int) -> str:
        return f"127.0.0.{replica + 1}"


@pytest.fixture(autouse=True)
def throw_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategies in throw_away/, here and in the processes of the runs."""
    monkeypatch.syspath_prepend(THROW_AWAY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(THROW_AWAY), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    monkeypatch.setenv(KEEP_VARIABLE, "1")
    from driven import Driven
    from repeats import Repeats
    from two_part import TwoPart

    for cls in (Driven, Repeats, TwoPart):
        monkeypatch.setitem(registry.available(), cls.name, cls)


def spec_of(strategy: str, replicas: int, **changes: Any) -> RunSpec:
    work = {"steps": STEPS, "optimizer": "momentum", "learning_rate": RATE["momentum"]}
    return make_spec(strategy, replicas, **work | changes)


def weights(folder: Path) -> list[np.ndarray]:
    return kept(folder)[-1]


def trained(spec: RunSpec, folder: Path) -> list[np.ndarray]:
    outcome = launch(spec, folder)
    assert outcome.status == "ok", outcome.reason
    return weights(folder)


@pytest.mark.slow
def test_a_model_cut_over_two_hosts_gives_the_weights_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    if not is_here("127.0.0.2"):
        pytest.skip("127.0.0.2 is no address of this machine")
    monkeypatch.chdir(THROW_AWAY)
    # Bytes, which the workload scales by Keras's operations.
    work = {"model": "dense_model:model", "dataset": DATASET}
    single, folder = spec_of("single", 1, **work), tmp_path / "single"
    outcome = launch(single, folder)
    whole, expected = weights(folder), collect(single, folder, outcome).run
    spec, folder = spec_of("two-part", 2, **work), tmp_path / "two-part"
    with Loopback() as place:
        outcome = launch(spec, folder, place=place)
    assert outcome.status == "ok", outcome.reason
    record = collect(spec, folder, outcome)

    for part in range(2):
        with np.load(folder / f"step-{STEPS}.worker-{part}.npz") as saved:
            assert len(saved.files) == 2
    assert_same(kept(folder)[-1], whole, TOLERANCE["momentum"])

    first, last = (journal.read(folder / f"worker-{part}.jsonl") for part in range(2))
    assert first.steps["examples"].tolist() == [0] * STEPS and np.isnan(first.steps["loss"]).all()
    assert last.steps["examples"].tolist() == [48] * STEPS
    assert record.run["examples_done"] == STEPS * 48 and record.run["examples_per_second"] > 0
    assert record.run["final_loss"] == pytest.approx(last.steps["loss"].mean())
    assert record.run["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-4)
    assert record.run["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)
    assert record.run["test_accuracy"] == expected["test_accuracy"]
    held = [task["weights_bytes"] for task in sorted(record.tasks, key=lambda task: task["task"])]
    assert held == [4 * (784 * 16 + 16), 4 * (16 * 10 + 10)]
    assert all(task["optimizer_bytes"] > task["weights_bytes"] for task in record.tasks)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """`single`'s weights, from batches that are tuples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEEP_VARIABLE, "1")
        return trained(spec_of("single", 1), tmp_path_factory.mktemp("single") / "run")


def named() -> list[Any]:
    usual = ("ps:sync=true", "driven")
    every = ["single", "driven", *[name for name in SYNCHRONOUS if "momentum" in SYNCHRONOUS[name]]]
    return [pytest.param(name, marks=[] if name in usual else [pytest.mark.exhaustive]) for name in every]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", named())
def test_batches_that_are_dictionaries_give_the_weights_that_tuples_give(
    strategy: str, expected: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    name = strategy.partition(":")[0]
    replicas = registry.available()[name].max_replicas or 2
    if (problem := registry.available()[name]().skip(replicas)) is not None:
        pytest.skip(problem)
    monkeypatch.setenv("TEST_NAMED_BATCHES", "1")
    assert_same(trained(spec_of(strategy, replicas), tmp_path / "run"), expected, TOLERANCE["momentum"])


@pytest.mark.slow
def test_a_client_without_replicas_counts_the_examples_of_the_tasks_that_it_drives(
    tmp_path: Path, no_strays: None
) -> None:
    spec, folder = spec_of("driven", 2), tmp_path / "run"
    outcome = launch(spec, folder)
    assert outcome.status == "ok", outcome.reason
    record = collect(spec, folder, outcome)
    assert record.run["examples_done"] == STEPS * 48
    found = {(task["role"], task["task"]): task for task in record.tasks}
    assert {key: task["replicas"] for key, task in found.items()} == {("part", 0): 1, ("part", 1): 1, ("worker", 0): 0}
    assert {task["outcome"] for task in record.tasks} == {"ended"}


@pytest.mark.slow
def test_the_strategy_chooses_the_backend_of_keras_not_the_environment(
    expected: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    assert_same(trained(spec_of("single", 1), tmp_path / "run"), expected, 0.0)


def test_a_host_that_is_not_this_machine_is_refused_before_anything_starts(tmp_path: Path) -> None:
    tasks = [Task(), Task(index=1, host="192.0.2.1")]
    with pytest.raises(RunError, match="only be started on this machine so far"):
        Launch(tasks, tmp_path, 10.0, threading.Event(), lambda label, event: None).run()
    assert not list(tmp_path.iterdir())
