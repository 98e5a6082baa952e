"""``model-parallel:split=tensor``: which layers are split and how, and that a run is what one process does."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conformance import DATASET, RATE, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from keras import layers
from stratbench.errors import UsageError
from stratbench.harness.launch.run import collect
from stratbench.results.raw import journal
from stratbench.strategies.cut._tensor_plan import plan
from stratbench.strategies.registry import create

TENSOR = "model-parallel:split=tensor"


def planned(*chain: keras.layers.Layer, parts: int = 2) -> dict[str, str]:
    model = keras.Sequential([keras.Input((12,)), *chain])
    return {layer.name: how for layer, how in plan(model, parts).items()}


def test_two_dense_layers_in_a_row_are_a_pair() -> None:
    found = planned(
        layers.Dense(8, "relu", name="a"), layers.Dense(4, name="b"), layers.LeakyReLU(), layers.Dense(3, name="c")
    )
    assert found == {"a": "columns", "b": "rows", "c": "joined columns"}


@pytest.mark.parametrize("between", [layers.Dropout, layers.BatchNormalization, layers.Softmax])
def test_what_sees_all_units_parts_a_pair(between: type) -> None:
    options = {"rate": 0.5} if between is layers.Dropout else {}
    found = planned(layers.Dense(8, name="a"), between(**options), layers.Dense(4, name="b"))
    assert found == {"a": "joined columns", "b": "joined columns"}


def test_what_needs_whole_weights_is_not_split() -> None:
    frozen = layers.Dense(8, trainable=False)
    found = planned(
        layers.Dense(8, kernel_regularizer="l2"), layers.Dense(8, bias_constraint="non_neg"), frozen, layers.Dense(1)
    )
    assert found == {}
    assert planned(layers.Dense(2), parts=3) == {}
    once = layers.Dense(12, "relu", name="twice")
    assert planned(once, once, layers.Dense(2, name="last")) == {"twice": "joined columns", "last": "joined columns"}


def test_outputs_that_others_use_are_made_whole() -> None:
    inputs = keras.Input((12,))
    first = layers.Dense(8, name="a")(inputs)
    second = layers.Dense(8, name="b")(first)
    found = plan(keras.Model(inputs, layers.Add()([first, second])), 2)
    assert {layer.name: how for layer, how in found.items()} == {"a": "joined columns", "b": "joined columns"}
    found = plan(keras.Model(inputs, [first, second]), 2)
    assert set(found.values()) == {"joined columns"}


def test_what_can_not_be_said_with_it() -> None:
    for options in ({"parts": 2}, {"cut": "dense"}):
        with pytest.raises(UsageError, match="split=tensor"):
            create("model-parallel", {"split": "tensor", **options})
    strategy = create("model-parallel", {"split": "tensor"})
    assert (strategy.fixed_batch, strategy.uneven, strategy.divides(4)) == (False, True, False)
    assert "Muon" in (strategy.skip_optimizer({"name": "Muon"}, 1) or "")
    assert strategy.skip_normaliser() is None
    model = keras.Sequential([keras.Input((12,)), layers.Dense(1)])
    assert "use split=layers" in (strategy.skip_model(model, 2) or "")
    assert strategy.skip_model(keras.Sequential([keras.Input((12,)), layers.Dense(8)]), 2) is None


MODELS = """
import keras
from keras import layers, ops


class Own(keras.Model):
    # Its call is its own code, and its last layer gets the dtype of the policy.
    def __init__(self, classes):
        super().__init__()
        self.flat, self.first = layers.Flatten(), layers.Dense(9, activation="gelu", activity_regularizer="l2")
        self.last = layers.Dense(classes)

    def call(self, x, training=None):
        return self.last(self.first(self.flat(x)))


def own(shape, classes):
    return Own(classes)


def tied(shape, classes):
    inputs = keras.Input(shape)
    dense = layers.Dense(784)
    x = dense(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(classes)(layers.Lambda(lambda t: ops.matmul(t, dense.kernel[:, :784]))(x)))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "split_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum:global_clipnorm=0.05", "adamw:weight_decay=0.1,clipnorm=0.02"])
def test_a_model_with_code_of_its_own_equals_single(
    optimizer: str, models: None, tmp_path: Path, horovod: None, no_strays: None
) -> None:
    """Three processes share 10 and 9 units, and clip by norms of whole weights."""
    work = {"dataset": DATASET, "learning_rate": RATE[optimizer.partition("w:")[0].partition(":")[0]]}
    expected = weights("single", 1, "split_models:own", optimizer, tmp_path / "single", **work)
    found = weights(TENSOR, 3, "split_models:own", optimizer, tmp_path / "run", **work)
    assert_same(found, expected, TOLERANCE["adam"])


@pytest.mark.slow
def test_each_process_holds_a_part_and_the_first_counts(tmp_path: Path, horovod: None, no_strays: None) -> None:
    """``mlp``: 784-16-16-10."""
    spec = make_spec(TENSOR, 2, optimizer="momentum", learning_rate=0.05, last_batch="keep", global_batch=50)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    rows = {row["task"]: row for row in collect(spec, tmp_path, outcome).tasks}
    whole = 784 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    # The bias after a cut by rows is everyone's.
    assert {row["weights_bytes"] for row in rows.values()} == {4 * ((whole - 16) // 2 + 16)}
    assert {row["role"] for row in rows.values()} == {"worker"}
    assert rows[0]["examples"] > rows[1]["examples"] == 0
    ready = journal.read(tmp_path / "worker-0.jsonl").ready
    assert ready is not None
    # Forward a sum of 16 units and 10 units joined; backward the gradient of the last layer's 16 inputs.
    assert ready["traffic_bytes"] == 4 * 50 * (4 * 16 + 2 * 10 + 4 * 16)


@pytest.mark.slow
def test_weights_that_are_used_elsewhere_are_found_out(models: None, tmp_path: Path, horovod: None) -> None:
    outcome = launch(make_spec(TENSOR, 2, model="split_models:tied"), tmp_path / "run")
    assert outcome.status == "failed"
    assert "split layers" in outcome.reason or "Incompatible" in outcome.reason or "shape" in outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow:worker=1,seconds=0.1", "pause:worker=1,step=5,seconds=1"])
def test_all_wait_for_a_slow_process(fault: str, tmp_path: Path, horovod: None, no_strays: None) -> None:
    spec = make_spec(TENSOR, 2, steps=12, inject=[fault])
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    seconds = journal.read(tmp_path / "worker-0.jsonl").steps["step_seconds"][2:]
    assert (np.median(seconds) if "slow" in fault else max(seconds)) > (0.1 if "slow" in fault else 0.9)
    assert json.loads((tmp_path / "spec.json").read_text())["options"] == {"split": "tensor"}
