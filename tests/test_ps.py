"""Parameter servers against a few lines of NumPy that replay the order of events which a real run recorded."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import softmax_regression
from conftest import kept, launch, make_spec
from stratbench.errors import UsageError
from stratbench.harness.launch.ports import Ports
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.plan.task import NoPlace
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal
from stratbench.strategies.base import THIS_HOST, Reaction, Task
from stratbench.strategies.registry import create

MODEL = "softmax_regression:model"


@pytest.fixture(autouse=True)
def in_tests_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setenv(KEEP_VARIABLE, "1")


def run(spec: RunSpec, folder: Path) -> tuple[list[np.ndarray], list[journal.TaskLog]]:
    outcome = launch(spec, folder)
    assert outcome.status == "ok", outcome.reason
    final = [weight.astype(np.float64) for weight in kept(folder)[-1]]
    return final, [journal.read(folder / f"worker-{index}.jsonl") for index in range(workers(spec))]


def workers(spec: RunSpec) -> int:
    return spec.replicas // getattr(spec.create_strategy(), "parts", 1)


def initial(spec: RunSpec) -> list[np.ndarray]:
    return [weight.astype(np.float64) for weight in SpecWorkload(spec).model().get_weights()]


def batches(spec: RunSpec) -> list[Iterator[tuple[np.ndarray, np.ndarray]]]:
    workload = SpecWorkload(spec)
    return [workload.batches(workers(spec), worker).epoch(0) for worker in range(workers(spec))]


def events(logs: list[journal.TaskLog]) -> list[tuple[int, np.void]]:
    """(worker, update) in the order in which the servers applied them, numbered without a gap."""
    found = sorted(
        ((worker, row) for worker, log in enumerate(logs) for row in log.updates), key=lambda e: e[1]["update"]
    )
    assert [row["update"] for _, row in found] == list(range(len(found)))
    return found


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_asynchronous_updates_are_what_their_recorded_order_makes_them(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec("ps:lock=true", 2, model=MODEL, dataset="mnist-12k", steps=25, optimizer="sgd", learning_rate=0.1)
    final, logs = run(spec, tmp_path / "run")
    data = batches(spec)
    versions = [initial(spec)]
    for worker, row in events(logs):
        gradient = softmax_regression.gradient(versions[row["fetched"]], *next(data[worker]))
        assert row["staleness"] == row["update"] - row["fetched"]
        versions.append([w - 0.1 * g for w, g in zip(versions[-1], gradient, strict=True)])
    assert len(versions) == 51
    assert_close(final, versions[-1])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_downpour_with_adagrad(parts: int, tmp_path: Path, no_strays: None) -> None:
    fetch, push, steps, rate = 3, 2, 50, 0.01
    reference = f"ps:mode=downpour,fetch={fetch},push={push},warm_start=10,lock=true,ps=2,parts={parts}"
    spec = make_spec(
        reference, 2 * parts, model=MODEL, dataset="mnist-12k", steps=steps, optimizer="adagrad", learning_rate=rate
    )
    final, logs = run(spec, tmp_path / "run")
    data = batches(spec)
    versions = [initial(spec)]
    squares = [np.full_like(weight, 0.1) for weight in versions[0]]
    own: list[list[np.ndarray]] = [[], []]
    pushes = events(logs)
    for worker, row in pushes:
        sums = [np.zeros_like(weight) for weight in versions[0]]
        for step in range(row["step"] - push + 1, row["step"] + 1):
            if step % fetch == 0:
                # The one fetch that is on record is the last before the push, and there is at most one between two.
                own[worker] = versions[row["fetched"]]
            gradient = softmax_regression.gradient(own[worker], *next(data[worker]))
            own[worker] = [w - rate * g for w, g in zip(own[worker], gradient, strict=True)]
            sums = [total + g for total, g in zip(sums, gradient, strict=True)]
        squares = [s + g**2 for s, g in zip(squares, sums, strict=True)]
        versions.append([w - rate * g / np.sqrt(s) for w, g, s in zip(versions[-1], sums, squares, strict=True)])
    assert len(pushes) == 50
    assert_close(final, versions[-1])
    assert [worker for worker, _ in pushes[:5]] == [0] * 5, "the warm start is worker 0's alone"
    assert logs[1].updates["blocked_seconds"][0] > 0


@pytest.mark.slow
def test_a_late_gradient_is_dropped_and_counted(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec(
        "ps:mode=sync,backup=1", 3, model=MODEL, dataset="mnist-12k", steps=40, optimizer="sgd", learning_rate=0.1
    )
    final, logs = run(spec, tmp_path / "run")
    data = [list(itertools.islice(each, 40)) for each in batches(spec)]
    rows = [(worker, row) for worker, log in enumerate(logs) for row in log.updates]
    weights = initial(spec)
    for clock in range(40):
        counted = [(w, row["step"]) for w, row in rows if row["applied"] and row["fetched"] == clock]
        assert len(counted) == 2, "a step ends with the first two of three gradients"
        gradients = [softmax_regression.gradient(weights, *data[worker][step]) for worker, step in counted]
        weights = [w - 0.1 * np.mean(g, axis=0) for w, *g in zip(weights, *gradients, strict=True)]
    assert_close(final, weights)
    assert any(not row["applied"] for _, row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "steps"), [(4, 300), pytest.param(2, 10_000, marks=pytest.mark.exhaustive)])
def test_no_worker_is_ahead_by_more_than_the_bound(bound: int, steps: int, tmp_path: Path, no_strays: None) -> None:
    spec = make_spec(
        f"ps:mode=ssp,staleness={bound}",
        2,
        model=MODEL,
        dataset="mnist-12k",
        steps=steps,
        inject=["slow:worker=1,seconds=0.02,probability=0.1"],
    )
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / "run" / f"worker-{index}.jsonl") for index in range(2)]
    for log in logs:
        assert len(log.steps) == steps
        assert (log.updates["clock"] - log.updates["slowest_clock"] <= bound).all()
        assert (log.updates["staleness"] <= 2 * bound + 1).all()
    assert sum(log.updates["blocked_seconds"].sum() for log in logs) > 0


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_looser_bound_waits_less(tmp_path: Path, no_strays: None) -> None:
    """Behind a straggler that is always slow, a bound of s spares s of its steps, once in a run."""
    waits = []
    for bound in ("0", "2", "8", "inf"):
        strategy, folder = f"ps:mode=ssp,staleness={bound}", tmp_path / bound
        spec = make_spec(strategy, 2, model=MODEL, steps=30, inject=["slow:worker=1,seconds=0.3"])
        assert launch(spec, folder).status == "ok"
        logs = [journal.read(folder / f"worker-{index}.jsonl") for index in range(2)]
        waits.append(sum(log.updates["blocked_seconds"].sum() for log in logs))
    assert waits == sorted(waits, reverse=True), waits
    assert waits[-1] < 0.01 * waits[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backup": "1"}, "backup of strategy ps is for mode=sync"),
        ({"mode": "async", "staleness": "2"}, "staleness of strategy ps is for mode=ssp"),
        ({"mode": "ssp", "staleness": "1.5"}, "option staleness of strategy ps"),
        ({"mode": "ssp", "sync": "true"}, "not both"),
        ({"mode": "sync", "lock": "true"}, "lock"),
        ({"mode": "downpour", "fetch": "0"}, "fetch"),
        ({"mode": "hogwild"}, "mode"),
    ],
)
def test_options_of_another_mode_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create("ps", options)


def test_an_infinite_bound_and_backups() -> None:
    assert create("ps", {"mode": "ssp", "staleness": "inf"}).skip(2) is None
    assert "backup=2" in str(create("ps", {"mode": "sync", "backup": "2"}).skip(2))


@pytest.mark.parametrize(
    ("options", "left", "reactions"),
    [
        # Worker 0 died with the ps task, in one poll of the launcher.
        ({"restart": "true", "checkpoint_every": "5"}, [1], {"ps-0": "RESTART", "worker-0": "RESTART"}),
        ({"restart": "true", "checkpoint_every": "5"}, [], {"ps-0": "RESTART", "worker-0": "RESTART"}),
        ({"checkpoint_every": "5"}, [1], {"ps-0": "RESTART", "worker-0": "GO_ON"}),
        ({"checkpoint_every": "5"}, [], {"ps-0": "END", "worker-0": "END"}),
        ({"restart": "true"}, [1], {"ps-0": "END", "worker-0": "RESTART"}),
        ({"restart": "true"}, [], {"ps-0": "END", "worker-0": "RESTART"}),
        ({}, [1], {"ps-0": "END", "worker-0": "GO_ON"}),
        ({"mode": "sync", "backup": "1"}, [0], {"ps-0": "END", "worker-1": "GO_ON"}),
        ({"mode": "sync", "backup": "1"}, [1], {"ps-0": "END", "worker-0": "END"}),
    ],
)
def test_what_becomes_of_a_run_when_a_task_dies(
    options: dict[str, str], left: list[int], reactions: dict[str, str]
) -> None:
    strategy = create("ps", options)
    everyone = strategy.tasks(2, NoPlace())
    workers = [task for task in everyone if task.role == "worker" and task.index in left]
    dead = {task.label: task for task in everyone if task.label in reactions}
    found = {label: strategy.after_death(task, workers, everyone) for label, task in dead.items()}
    assert found == {label: Reaction[name] for label, name in reactions.items()}


class UnlinkedError(Exception):
    """Ends the wait."""


@pytest.mark.slow
@pytest.mark.parametrize("reachable", [True, False])
def test_no_worker_begins_before_the_ps_tasks_reach_one_another(reachable: bool) -> None:
    """Ps task 0 looks for ps task 1 where nobody is; the worker reaches both."""
    import tensorflow as tf
    from stratbench.strategies.parameter_server._session import Member, Sessions
    from stratbench.strategies.parameter_server._variables import shared_variable

    asked: list[bool] = []

    def leads() -> bool:
        asked.append(True)
        if len(asked) > 3:
            raise UnlinkedError
        return True

    v1 = tf.compat.v1
    with Ports() as ports, tf.Graph().as_default():
        first, second, worker, nowhere = (ports.address(THIS_HOST) for _ in range(4))
        known = {"ps": [first, second], "worker": [worker]}
        wrong = known if reachable else known | {"ps": [first, nowhere]}
        servers = [tf.distribute.Server(wrong, "ps", 0), tf.distribute.Server(known, "ps", 1)]
        servers.append(tf.distribute.Server(known, "worker", 0))
        variables = [shared_variable(f"v{server}", server, (), tf.int64) for server in (0, 1)]
        node = Member(Task("worker", 0), servers[-1].target, v1.ConfigProto())
        sessions = Sessions(node, tf.group(*[variable.initializer for variable in variables]), {})
        if reachable:
            with sessions.open(leads) as session:
                assert session.run(variables) == [0, 0] and len(asked) == 1
        else:
            with pytest.raises(UnlinkedError):
                sessions.open(leads)


LINEAR = """
import keras


def mean(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1)


def model(shape, classes):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(loss=mean)
    return model
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fetch", "push", "steps", "parts"), [(1, 1, 31, 1), (2, 3, 20, 1), (1, 1, 1, 1), (2, 3, 20, 2)]
)
def test_overlapping_loops_lose_no_gradient_and_repeat_none(
    fetch: int, push: int, steps: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    """Gradients that don't depend on the weights add up to the same, whenever they come."""
    (tmp_path / "linear_model.py").write_text(LINEAR)
    monkeypatch.chdir(tmp_path)
    work = {"model": "linear_model:model", "dataset": "mnist-12k", "steps": steps, "optimizer": "sgd"}
    reference = f"ps:mode=downpour,fetch={fetch},push={push},overlap=true,lock=true,parts={parts}"
    final, logs = run(make_spec(reference, 2 * parts, learning_rate=0.1, **work), tmp_path / "run")
    # Two workers' updates, where one process applies their mean.
    expected, _ = run(make_spec("single", 1, learning_rate=0.2, **work), tmp_path / "single")
    assert_close(final, expected)
    rows = [row for _, row in events(logs)]
    assert [row["update"] for row in rows] == list(range(len(rows)))
    assert all(0 <= row["staleness"] <= row["update"] - row["fetched"] for row in rows)
    assert {int(log.updates["step"][-1]) for log in logs} == {steps - 1}


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [True, False])
def test_overlapping_loops_go_on_while_a_ps_task_does_not_answer(
    overlap: bool, tmp_path: Path, no_strays: None
) -> None:
    """The system stops it: an injected pause would be waited for."""
    reference = f"ps:mode=downpour,overlap={str(overlap).lower()}"
    spec = make_spec(reference, 1, steps=250, inject=["slow:worker=0,seconds=0.02"])
    known: dict[str, int] = {}

    def listen(label: str, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            known[label] = event["pid"]
        if event["event"] == "steps" and event["rows"][-1][1] > 20 and "stopped" not in known:
            known["stopped"] = known["ps-0"]
            os.kill(known["ps-0"], signal.SIGSTOP)
            threading.Timer(2, os.kill, (known["ps-0"], signal.SIGCONT)).start()

    assert launch(spec, tmp_path / "run", listen=listen).status == "ok"
    log = journal.read(tmp_path / "run" / "worker-0.jsonl")
    assert (max(log.steps["step_seconds"][2:]) > 1.5) != overlap
    assert (len(log.updates) == 250) != overlap
