"""The deep stacking network: what its blocks see, whose error trains them, and that it trains alike when spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import assert_same, weights
from stratbench.errors import UsageError
from stratbench.harness.models._squared_error import LastAccuracy, sum_over_blocks
from stratbench.harness.plan import models
from stratbench.harness.worker.main import KEEP_VARIABLE
from test_models import build

SMALL = "dsn:blocks=3,units=4"
LABELS = np.array([0, 2, 1])
ROWS = np.eye(3, dtype="float32")[LABELS]


@pytest.mark.parametrize("training", ["together", "blocks"])
def test_each_block_sees_the_input_and_all_earlier_predictions(training: str) -> None:
    model = build(f"{SMALL},training={training}", (2, 3, 1), 3)
    hidden = [layer.kernel.shape for layer in model.layers if layer.name.startswith("hidden")]
    assert hidden == [(6, 4), (9, 4), (12, 4)]
    assert model.output_shape == ((None, 3, 3) if training == "blocks" else (None, 3))


@pytest.mark.parametrize(("training", "moved"), [("together", True), ("blocks", False)])
def test_whose_error_trains_a_block(training: str, moved: bool) -> None:
    model = build(f"{SMALL},training={training}", (2, 3, 1), 3)
    first = model.get_layer("hidden_0").kernel
    with tf.GradientTape() as tape:
        outputs = model(np.ones((5, 2, 3, 1), "float32"))
        last = tf.reduce_sum(outputs[:, -1] if training == "blocks" else outputs)
    gradient = tape.gradient(last, first.value, unconnected_gradients="zero")
    assert (np.abs(gradient).max() > 0) == moved


@pytest.mark.parametrize("y", [LABELS, LABELS[:, None], ROWS], ids=["labels", "column", "rows"])
def test_errors_are_summed_and_the_last_prediction_counts(y: np.ndarray) -> None:
    predictions = np.random.default_rng(0).normal(size=(3, 2, 3)).astype("float32")
    expected = 0.5 * np.square(predictions - ROWS[:, None]).sum(axis=(1, 2))
    np.testing.assert_allclose(sum_over_blocks(tf.constant(y), tf.constant(predictions)), expected, rtol=1e-6)
    accuracy = LastAccuracy()
    accuracy.update_state(tf.constant(y), tf.constant(predictions))
    assert float(accuracy.result()) == pytest.approx((predictions[:, -1].argmax(axis=-1) == LABELS).mean())


def test_the_way_of_training_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="option training of model dsn must be together or blocks"):
        models.check_reference("dsn:training=x")
    types = {each["name"]: each["type"] for each in models.describe("dsn")["options"]}
    assert types == {"blocks": "int", "units": "int", "training": "together|blocks"}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEEP_VARIABLE, "1")
        return trained("single", 1, tmp_path_factory.mktemp("single") / "run")


def trained(strategy: str, replicas: int, folder: Path) -> list[np.ndarray]:
    return weights(strategy, replicas, f"{SMALL},training=blocks", "momentum", folder)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["model-parallel", "ps:sync=true"])
def test_blocks_train_alike(
    strategy: str, single: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    monkeypatch.setenv(KEEP_VARIABLE, "1")
    assert_same(trained(strategy, 2, tmp_path / "run"), single, 1e-5)


def test_it_learns() -> None:
    model = build("dsn:blocks=2,units=16,training=blocks", (4, 4, 1), 3)
    x = np.random.default_rng(0).normal(size=(300, 4, 4, 1)).astype("float32")
    y = x.reshape(300, -1)[:, :3].argmax(axis=-1)
    model.optimizer = keras.optimizers.Adam(0.02)
    model.compile(optimizer=model.optimizer, loss=sum_over_blocks, metrics=[LastAccuracy()])
    history = model.fit(x, y, epochs=20, verbose=0).history["accuracy"]
    assert history[-1] > 0.85 > history[0]
