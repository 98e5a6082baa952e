"""The options of the strategies on Horovod's collectives: what they take, refuse and tell Horovod."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import launch, make_spec
from stratbench.errors import UsageError
from stratbench.results.raw import journal
from stratbench.strategies import registry
from stratbench.strategies._shared import devices
from stratbench.strategies.collectives import _collective as _collectives
from stratbench.strategies.collectives import _ranks
from stratbench.strategies.collectives import horovod as horovod_strategy
from stratbench.strategies.collectives._build import HorovodStatus
from stratbench.strategies.collectives.gossip import peers


@pytest.mark.parametrize(("text", "period"), [("5", 5), ("1", 1), ("end", "end"), (7, 7)])
def test_period_is_a_number_of_steps_or_the_end(text: str | int, period: int | str) -> None:
    assert registry.create("local-sgd", {"period": text}).period == period


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("local-sgd", {"period": "0"}),
        ("local-sgd", {"period": "x"}),
        ("local-sgd", {"period": "1.5"}),
        ("local-sgd", {"average_momentum": "maybe"}),
        ("horovod", {"op": "sum"}),
        ("master-worker", {"cycle_ms": "0"}),
        ("allgather", {"fusion_mib": "1"}),
    ],
)
def test_unfit_options_are_one_line(strategy: str, options: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        registry.create(strategy, options)
    (name,) = options
    text = str(caught.value)
    assert "\n" not in text and strategy in text and name in text and "Received: '" in text


GLOO = HorovodStatus(True, version="0.28.1", controllers=("gloo",))
MPI = replace(GLOO, controllers=("gloo", "mpi"))
NCCL = replace(MPI, nccl=True)


@pytest.mark.parametrize(
    ("options", "replicas", "build", "gpus", "reason"),
    [
        ({"op": "adasum"}, 2, GLOO, 0, "built with MPI"),
        ({"op": "adasum", "controller": "gloo"}, 2, MPI, 0, "controller=mpi or auto"),
        ({"op": "adasum"}, 2, MPI, 0, "add bucket_mib=0"),
        ({"op": "adasum", "bucket_mib": "0"}, 3, MPI, 0, "power of two of replicas, not 3"),
        ({"op": "adasum", "bucket_mib": "0"}, 4, MPI, 0, None),
        ({"hierarchical": "true"}, 2, GLOO, 0, "NCCL and MPI"),
        ({"hierarchical": "true"}, 2, NCCL, 0, "only on GPUs"),
        ({"hierarchical": "true"}, 2, NCCL, 2, "several hosts"),
        ({}, 2, GLOO, 0, None),
    ],
)
def test_what_horovod_would_refuse_or_ignore_is_skipped_with_a_reason(
    options: dict[str, str],
    replicas: int,
    build: HorovodStatus,
    gpus: int,
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for module in (_collectives, horovod_strategy):
        monkeypatch.setattr(module, "status", lambda: build)
    for module in (devices, horovod_strategy):
        monkeypatch.setattr(module, "gpus", lambda: gpus)
    found = registry.create("horovod", options).skip(replicas)
    assert found is None if reason is None else found is not None and reason in found
    assert found is None or "\n" not in found


@pytest.mark.parametrize(
    ("build", "job", "gpus", "cycle_ms", "fusion_mib"),
    [
        (replace(GLOO, wakes=True), None, 0, 5, 1),
        (GLOO, None, 0, 1, 1),
        (replace(MPI, wakes=True), "gloo", 0, 5, 1),
        (replace(MPI, wakes=True), "mpi", 0, 1, 128),
        (replace(MPI, wakes=True), None, 0, 1, 128),
        (replace(NCCL, wakes=True), "gloo", 2, 5, 128),
    ],
)
def test_cycle_and_fusion_follow_what_coordinates_and_reduces(
    build: HorovodStatus, job: str | None, gpus: int, cycle_ms: int, fusion_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collectives, "status", lambda: build)
    monkeypatch.setattr(horovod_strategy, "gpus", lambda: gpus)
    monkeypatch.delenv("HOROVOD_CONTROLLER", raising=False)
    if job:
        monkeypatch.setenv("HOROVOD_CONTROLLER", job)
    variables = registry.create("horovod", {}).environment()
    assert float(variables["HOROVOD_CYCLE_TIME"]) == cycle_ms
    assert int(variables["HOROVOD_FUSION_THRESHOLD"]) == fusion_mib * 2**20
    chosen = registry.create("horovod", {"cycle_ms": "0.5", "fusion_mib": "0"}).environment()
    assert (chosen["HOROVOD_CYCLE_TIME"], chosen["HOROVOD_FUSION_THRESHOLD"]) == ("0.5", "0")


@pytest.mark.skipif(not _collectives.status().wakes, reason="needs a Horovod that tensors wake")
def test_a_tensor_wakes_horovod(tmp_path: Path) -> None:
    outcome = launch(make_spec("horovod:cycle_ms=3000", 2, model="mlp", steps=20), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    steps = journal.read(tmp_path / "run" / "worker-0.jsonl").steps["step_seconds"]
    assert np.median(steps) < 1.5, "a thread that only looks in each cycle needs 3 s a step"


def test_ranks_on_two_hosts_are_numbered_as_horovodrun_does() -> None:
    environments = _ranks.variables(["10.0.0.1", "10.0.0.1", "10.0.0.2"], "10.0.0.1:4000")
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "HOSTNAME")
    assert [[env[f"HOROVOD_{name}"] for name in names] for env in environments] == [
        ["0", "3", "0", "2", "0", "2", "10.0.0.1"],
        ["1", "3", "1", "2", "0", "1", "10.0.0.1"],
        ["2", "3", "0", "1", "1", "2", "10.0.0.2"],
    ]
    assert {env["HOROVOD_GLOO_RENDEZVOUS_ADDR"] for env in environments} == {"10.0.0.1"}


def test_every_process_hears_of_every_other() -> None:
    for graph, size in itertools.product(("ring", "exponential"), (1, 2, 3, 5, 8)):
        sent = [peers(graph, rank, size) for rank in range(size)]
        assert len({len(each) for each in sent}) == 1 and all(
            rank not in to for rank, each in enumerate(sent) for to in each
        )
        heard, rounds = np.eye(size, dtype=bool), 0
        while not heard.all():
            to = [each[rounds % len(each)] for each in sent]
            received = [sum(rank in each for each in to) for rank in range(size)]
            assert set(received) == {len(to[0])}, "W must be doubly stochastic"
            heard = np.array(
                [heard[rank] | np.any([heard[o] for o in range(size) if rank in to[o]], 0) for rank in range(size)]
            )
            rounds += 1
        assert rounds == (size // 2 if graph == "ring" else (size - 1).bit_length())


@pytest.mark.parametrize("weights", ["1+0", "1+-2", "x", "1++2", "nan+1", "1,2"])
def test_weights_of_workers_are_positive_numbers(weights: str) -> None:
    with pytest.raises(UsageError, match="weights of strategy master-worker: positive numbers"):
        registry.create("master-worker", {"weights": weights})


def test_each_worker_has_a_weight() -> None:
    assert "2 numbers for 3 replicas" in str(registry.create("master-worker", {"weights": "1+2"}).skip(3))


def test_shared_weights_have_no_buckets() -> None:
    with pytest.raises(UsageError, match="is for share=gradients"):
        registry.create("allgather", {"share": "weights", "bucket_mib": "1"})


def test_gossip_exchanges_in_each_step() -> None:
    strategy = registry.create("gossip", {})
    assert "leave --accumulate out" in (strategy.skip_optimizer({}, 2) or "")
    assert strategy.skip_optimizer({}, 1) is None
    assert [registry.create("gossip", {"graph": g}).traffic_bytes(100, 4) for g in ("ring", "exponential")] == [
        1600,
        800,
    ]
