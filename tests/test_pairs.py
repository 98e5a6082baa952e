"""AD-PSGD: weights of random pairs are averaged while both go on, and no change is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import launch, make_spec
from stratbench.harness.launch.run import collect
from stratbench.strategies import registry
from stratbench.strategies._shared.messages import connected
from stratbench.strategies.collectives._pairs import Pairs, actives
from test_reductions import at_once, free_addresses


@pytest.mark.parametrize("size", [2, 3, 4])
def test_no_change_is_lost(size: int) -> None:
    """Averaging leaves the sum of all weights as it is, and each step adds what it has learned."""
    addresses, steps, length = free_addresses(size), 100, 5000
    weights = np.random.default_rng(0).normal(size=(size, length))
    changes = np.random.default_rng(1).normal(size=(size, steps, length))
    found = np.zeros_like(weights)
    ended = Meeting(size)

    def act(rank: int) -> None:
        with connected(rank, addresses) as messages, Pairs(messages, weights[rank]) as pairs:
            for step in range(steps):
                pairs.begin()
                pairs.add(changes[rank, step])
            ended.wait()
            found[rank] = pairs.weights()

    at_once(act, size)
    np.testing.assert_allclose(found.sum(axis=0), weights.sum(axis=0) + changes.sum(axis=(0, 1)), atol=1e-9)


class Meeting:
    def __init__(self, size: int):
        import threading

        self._barrier = threading.Barrier(size)

    def wait(self) -> None:
        self._barrier.wait(30)


def test_weights_come_together_without_steps() -> None:
    addresses, ended = free_addresses(4), Meeting(4)
    found = np.zeros((4, 3))

    def act(rank: int) -> None:
        with connected(rank, addresses) as messages, Pairs(messages, np.full(3, float(rank))) as pairs:
            for _ in range(50):
                pairs.begin()
                pairs.add(np.zeros(3))
            ended.wait()
            found[rank] = pairs.weights()

    at_once(act, 4)
    np.testing.assert_allclose(found, 1.5, atol=1e-3)


def test_every_active_process_has_one_to_answer() -> None:
    assert [actives(size) for size in (1, 2, 3, 4)] == [[0], [0], [0, 2], [0, 2]]


def test_traffic() -> None:
    found = [registry.create("gossip", {"graph": "random"}).traffic_bytes(100, size) for size in (1, 2, 3, 4)]
    assert found == [0, 400, 800, 800]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_run(replicas: int, tmp_path: Path, horovod: None, no_strays: None) -> None:
    spec = make_spec("gossip:graph=random", replicas, dataset="mnist-12k", steps=None, epochs=2, global_batch=48)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    record = collect(spec, tmp_path, outcome)
    assert record.run["test_accuracy"] > 0.6
    distances = [row["consensus_distance"] for row in record.epochs]
    assert all(each > 0 for each in distances) if replicas > 1 else distances == [0.0, 0.0]
    if replicas > 1:
        assert record.run["traffic_bytes_measured"] == pytest.approx(record.run["traffic_bytes_expected"], rel=0.05)
