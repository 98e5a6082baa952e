"""Strategies of tf.distribute that can't run here: what rows say, and as much of the TPU's way as a CPU shows."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import call
from conftest import make_spec
from stratbench.errors import RunError
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.strategies import registry
from stratbench.strategies.base import FAMILIES, Task
from stratbench.strategies.tf_distribute import tpu


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)


def test_why_there_is_no_row() -> None:
    assert "removed from TensorFlow 2.16" in (make_spec("estimator", 2).skip() or "")
    assert make_spec("tpu", 2).skip() == "no TPU: this machine has none, and neither option tpu nor TPU_NAME names one"
    with pytest.raises(RunError, match="removed from"):
        registry.create("estimator", {}).trainer(Task(), SimpleNamespace())  # type: ignore[arg-type]


def test_a_named_tpu_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_spec("tpu:tpu=grpc://192.0.2.1:8470", 2).skip() is None
    monkeypatch.setenv("TPU_NAME", "mine")
    assert make_spec("tpu", 2).skip() is None


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As many replicas as TensorFlow's TPU strategy is told to have; they are one CPU."""
    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda tpu: tpu)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda resolver: None)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: one)
    return one


def test_the_step_on_one_core_is_that_of_one_replica(cores: Any) -> None:
    workload = SpecWorkload(make_spec("single", 1, optimizer="momentum", learning_rate=0.05))
    batches = list(zip(range(3), workload.batches(1, 0).epoch(0), strict=False))
    with registry.create("tpu", {"tpu": "any"}).trainer(Task(), workload) as trainer:
        losses = [trainer.step(batch, 0.05).loss for _, batch in batches]  # type: ignore[union-attr]
        found = trainer.weights()  # type: ignore[union-attr]
    model, optimizer = workload.model(), workload.optimizer()
    optimizer.build(model.trainable_variables)
    for number, batch in batches:
        with tf.GradientTape() as tape:
            loss = workload.total_loss(model, batch)
        assert losses[number] == pytest.approx(float(loss), rel=1e-5)
        optimizer.apply(tape.gradient(loss, [v.value for v in model.trainable_variables]), model.trainable_variables)
    for ours, theirs in zip(found, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_replicas_are_cores(cores: Any) -> None:
    workload = SpecWorkload(make_spec("single", 1))
    workload.replicas = 8
    with (
        pytest.raises(RunError, match="TPU any has 1 cores, each of which is a replica; use -n 1"),
        registry.create("tpu", {"tpu": "any"}).trainer(Task(), workload),
    ):
        pass


def test_a_tpu_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tpu: str) -> None:
        raise OSError("no such name\nmore")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", fail)
    with (
        pytest.raises(RunError, match="TensorFlow can't use TPU any: no such name"),
        tpu.Tpu(tpu="any").trainer(Task(), SimpleNamespace()),  # type: ignore[arg-type]
    ):
        pass


def test_every_strategy_is_in_a_family_and_good_for_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "strategies", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(dict.fromkeys(row["family"] for row in rows)) == list(FAMILIES)
    assert {row["name"] for row in rows} == set(registry.available())
    assert all(row["good_for"] and not row["good_for"].endswith(".") for row in rows)


def test_families_are_shown_with_what_each_is_good_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "strategies") == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{family}: {words}") for family, words in FAMILIES.items()]
    assert places == sorted(places)
    assert "good for a model that does not fit one device" in shown
