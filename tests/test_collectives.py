"""The strategies on Horovod's collectives against a few lines of NumPy that replay each algorithm.

The replayed model is softmax regression from zero weights: its gradient is two lines. Real runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import kept, launch, make_spec
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal

TOLERANCE = 1e-5
RATE = 0.05
MODEL = """
import keras

def softmax_regression(shape, classes):
    layers = keras.layers
    return keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(classes, kernel_initializer="zeros")])
"""
Weights = list[np.ndarray]
Part = tuple[np.ndarray, np.ndarray]
"""x and y that one process reads in a step."""


def gradient(weights: Weights, part: Part) -> Weights:
    """Of the mean cross-entropy of softmax regression, in double precision."""
    x, y = part[0].reshape(len(part[0]), -1), part[1]
    scores = np.exp(x @ weights[0] + weights[1])
    error = (scores / scores.sum(axis=1, keepdims=True) - np.eye(scores.shape[1])[y]) / len(y)
    return [x.T @ error, error.sum(axis=0)]


class Momentum:
    """θ ← θ + v, v ← μ·v − η·g, as Keras's SGD; μ = 0 is plain SGD."""

    def __init__(self, factor: float):
        self.factor = factor
        self.velocity: Weights = []

    def apply(self, weights: Weights, gradients: Weights) -> Weights:
        old = self.velocity or [np.zeros_like(g) for g in gradients]
        self.velocity = [self.factor * v - RATE * g for v, g in zip(old, gradients, strict=True)]
        return [w + v for w, v in zip(weights, self.velocity, strict=True)]


def mean(of: list[Weights]) -> Weights:
    return [np.mean(tensors, axis=0) for tensors in zip(*of, strict=True)]


def steps(spec: RunSpec) -> Iterator[tuple[list[Part], bool]]:
    """What every process reads in each step of a run, and whether that ends an epoch or the run."""
    workload = SpecWorkload(spec)
    shards = [workload.batches(spec.replicas, shard) for shard in range(spec.replicas)]
    done = 0
    for epoch in range(-(-workload.total_steps // workload.steps_per_epoch)):
        for position, parts in enumerate(zip(*(shard.epoch(epoch) for shard in shards), strict=True), 1):
            done += 1
            if done <= workload.total_steps:
                yield list(parts), position == workload.steps_per_epoch or done == workload.total_steps


def zeros() -> Weights:
    return [np.zeros((64, 5)), np.zeros(5)]


def local_sgd(spec: RunSpec, period: int, factor: float, average_momentum: bool) -> Iterator[Weights]:
    """The mean over all processes at the end of each epoch."""
    thetas = [zeros() for _ in range(spec.replicas)]
    optimizers = [Momentum(factor) for _ in range(spec.replicas)]
    for step, (parts, ends) in enumerate(steps(spec), 1):
        thetas = [
            optimizer.apply(theta, gradient(theta, part))
            for optimizer, theta, part in zip(optimizers, thetas, parts, strict=True)
        ]
        if step % period == 0:
            thetas = [mean(thetas)] * spec.replicas
            if average_momentum:
                common = mean([optimizer.velocity for optimizer in optimizers])
                for optimizer in optimizers:
                    optimizer.velocity = common
        if ends:
            yield mean(thetas)


def gossip(spec: RunSpec, factor: float, weights: list[np.ndarray]) -> Iterator[Weights]:
    """The mean over all processes at the end of each epoch. ``weights``: W of each step, which repeat."""
    thetas = [zeros() for _ in range(spec.replicas)]
    optimizers = [Momentum(factor) for _ in range(spec.replicas)]
    for step, (parts, ends) in enumerate(steps(spec)):
        rows = weights[step % len(weights)]
        mixed = [[np.tensordot(row, tensors, 1) for tensors in zip(*thetas, strict=True)] for row in rows]
        thetas = [
            optimizer.apply(before, gradient(theta, part))
            for optimizer, before, theta, part in zip(optimizers, mixed, thetas, parts, strict=True)
        ]
        if ends:
            yield mean(thetas)
            DISTANCES.append(
                np.sqrt(
                    np.mean([sum(np.sum((a - b) ** 2) for a, b in zip(t, mean(thetas), strict=True)) for t in thetas])
                )
            )


DISTANCES: list[float] = []
"""Of the processes' weights from their mean, where `gossip` has yielded."""
RING = [sum(np.roll(np.eye(5), shift, axis=0) for shift in (-1, 0, 1)) / 3]
EXPONENTIAL = [(np.eye(3) + np.roll(np.eye(3), shift, axis=0)) / 2 for shift in (1, 2)]


def all_reduce(spec: RunSpec, passes: int) -> Iterator[Weights]:
    """One update with the mean gradient of every ``passes`` steps; what is left over at the end is not applied."""
    theta, optimizer, seen = zeros(), Momentum(0.0), []
    for parts, ends in steps(spec):
        seen += [gradient(theta, part) for part in parts]
        if len(seen) == passes * spec.replicas:
            theta, seen = optimizer.apply(theta, mean(seen)), []
        if ends:
            yield theta


def weighted(spec: RunSpec, of: list[float]) -> Iterator[Weights]:
    """Σ w_i g_i / Σ w_i in each step."""
    theta, optimizer = zeros(), Momentum(0.0)
    for parts, ends in steps(spec):
        found = [gradient(theta, part) for part in parts]
        theta = optimizer.apply(theta, [np.average(each, axis=0, weights=of) for each in zip(*found, strict=True)])
        if ends:
            yield theta


def assert_same(found: list[Weights], expected: list[Weights]) -> None:
    assert len(found) == len(expected)
    for epoch, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            error = np.linalg.norm(a - b) / np.linalg.norm(b)
            assert error <= TOLERANCE, f"weight {index} differs by {error:.2e} after epoch {epoch}"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Workers find it in the folder that they are started in."""
    (tmp_path / "regression.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return "regression:softmax_regression"


@pytest.fixture(autouse=True)
def keep_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEEP_VARIABLE, "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "replicas", "optimizer", "replay"),
    [
        ("local-sgd:period=5", 3, "sgd", lambda spec: local_sgd(spec, 5, 0.0, False)),
        pytest.param(
            *("local-sgd:period=5", 2, "momentum", lambda spec: local_sgd(spec, 5, 0.9, False)),
            marks=pytest.mark.exhaustive,
        ),
        ("local-sgd:period=end,average_momentum=true", 2, "momentum", lambda spec: local_sgd(spec, 50, 0.9, True)),
        ("local-sgd:period=7,average_momentum=true", 2, "momentum", lambda spec: local_sgd(spec, 7, 0.9, True)),
        ("gossip", 5, "sgd", lambda spec: gossip(spec, 0.0, RING)),
        ("gossip:graph=exponential", 3, "momentum", lambda spec: gossip(spec, 0.9, EXPONENTIAL)),
        pytest.param(
            *("gossip", 2, "momentum", lambda spec: gossip(spec, 0.9, [np.full((2, 2), 0.5)])),
            marks=pytest.mark.exhaustive,
        ),
        ("master-worker:weights=1+3", 2, "sgd", lambda spec: weighted(spec, [1.0, 3.0])),
        ("horovod", 2, "sgd:gradient_accumulation_steps=3", lambda spec: all_reduce(spec, 3)),
        pytest.param(
            *("horovod:bucket_mib=0", 2, "sgd", lambda spec: all_reduce(spec, 1)), marks=pytest.mark.exhaustive
        ),
    ],
)
def test_fifty_steps_are_those_of_the_algorithm(
    strategy: str,
    replicas: int,
    optimizer: str,
    replay: Callable[[RunSpec], Iterator[Weights]],
    model: str,
    tmp_path: Path,
    horovod: None,
    no_strays: None,
) -> None:
    # 24 steps an epoch: an epoch ends between two averagings, and the last two steps make no update of three.
    spec = make_spec(
        strategy,
        replicas,
        model=model,
        dataset="synthetic:shape=8x8x1,classes=5,examples=900",
        global_batch=30,
        steps=50,
        optimizer=optimizer,
        learning_rate=RATE,
    )
    assert SpecWorkload(spec).steps_per_epoch == 24
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    assert_same(kept(tmp_path / "run"), list(replay(spec)))
    if strategy.startswith("gossip"):
        log = journal.read(tmp_path / "run" / "worker-0.jsonl")
        told = [event["figures"]["consensus_distance"] for event in log.epochs]
        assert told == pytest.approx(DISTANCES[-len(told) :], rel=1e-3) and told[0] > 0
        sent = 4 * log.ready["parameters"] * (2 if replicas == 5 else 1)
        assert log.ready["traffic_bytes"] == 2 * replicas * sent
    if strategy.startswith("local-sgd"):
        log = journal.read(tmp_path / "run" / "worker-0.jsonl")
        period = spec.create_strategy().period
        copies = 2 if "average_momentum" in strategy else 1
        averaged_bytes = 4 * log.ready["parameters"] * copies
        times = 1 if period == "end" else 50 // period
        assert log.ready["traffic_bytes"] == 4 * (replicas - 1) * averaged_bytes * times / 50


def uneven(strategy: str, replicas: int, examples: int) -> RunSpec:
    """Three epochs whose last batch is incomplete."""
    return make_spec(
        strategy,
        replicas,
        dataset=f"synthetic:shape=8x8x1,classes=5,examples={examples}",
        split="80/10/10",
        global_batch=24,
        last_batch="keep",
        steps=None,
        epochs=3,
        optimizer="momentum",
        learning_rate=RATE,
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[Weights]]:
    """`single`'s weights for so many examples, computed once."""
    known: dict[int, list[Weights]] = {}

    def get(examples: int) -> list[Weights]:
        if examples not in known:
            folder = tmp_path_factory.mktemp("single") / "run"
            outcome = launch(uneven("single", 1, examples), folder)
            assert outcome.status == "ok", outcome.reason
            known[examples] = kept(folder)
        return known[examples]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "replicas", "examples", "last"),
    [
        ("master-worker", 3, 121, [1, 0, 0]),
        ("allgather", 2, 126, [3, 2]),
        pytest.param("master-worker", 2, 126, [3, 2], marks=pytest.mark.exhaustive),
        pytest.param("allgather", 3, 121, [1, 0, 0], marks=pytest.mark.exhaustive),
    ],
)
def test_uneven_last_batch_equals_single(
    strategy: str,
    replicas: int,
    examples: int,
    last: list[int],
    single: Callable[[int], list[Weights]],
    tmp_path: Path,
    horovod: None,
    no_strays: None,
) -> None:
    outcome = launch(uneven(strategy, replicas, examples), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / "run" / f"worker-{rank}.jsonl") for rank in range(replicas)]
    for log, count in zip(logs, last, strict=True):
        assert log.steps["examples"].tolist() == ([24 // replicas] * 4 + [count]) * 3
        assert ((log.steps["loss"] > 0) == (log.steps["examples"] > 0)).all()
    assert_same(kept(tmp_path / "run"), single(examples))
