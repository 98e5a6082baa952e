"""``--save-model``: the model that was evaluated is kept, and what can't be kept is said before anything runs."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import stratbench
from conftest import Write
from stratbench.errors import UsageError

# TensorFlow takes seconds to load, and the suite in which this is the first to do so says so.
pytestmark = pytest.mark.slow

HEAD = """
import keras
import numpy as np

X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
def data(): return (X[:150], Y[:150]), (X[150:], Y[150:])
def compiled(loss="sparse_categorical_crossentropy"):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", loss, metrics=["accuracy"])
    return model
"""
X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")


def test_the_models_are_those_of_the_rows(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write("make = compiled")
    work = {"dataset": model.replace(":make", ":data"), "global_batch": 30, "epochs": 3, "output": tmp_path / "out"}
    arguments = {"strategies": ["single", "mirrored"], "replicas": 2, "save_model": tmp_path / "models", **work}
    runs = stratbench.compare(model, **arguments).runs.set_index("run_id")
    assert runs["status"].tolist() == ["ok", "ok"]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(f"{run}.keras" for run in runs.index)
    for run, row in runs.iterrows():
        trained = keras.models.load_model(tmp_path / "models" / f"{run}.keras")
        loss, accuracy = trained.evaluate(X[150:], (X[150:, 0] > 0).astype("int64"), verbose=0)
        assert (loss, accuracy) == pytest.approx((row["test_loss"], row["test_accuracy"]), rel=1e-5)
    # It is no other work: the same runs without a folder are these.
    capsys.readouterr()
    del arguments["save_model"]
    assert stratbench.compare(model, **arguments).runs["run_id"].tolist() == runs.index.tolist()
    assert "not run again\n" in capsys.readouterr().err


def test_a_model_that_can_not_be_saved(write: Write, tmp_path: Path) -> None:
    model = write(
        "class Own(keras.losses.Loss):\n    def call(self, y, p): return keras.ops.mean(p, axis=-1)\n"
        "    def get_config(self): raise NotImplementedError('no config')\n"
        "def make(): return compiled(Own())"
    )
    work = {"dataset": model.replace(":make", ":data"), "global_batch": 30, "output": tmp_path / "out"}
    with pytest.raises(UsageError, match=r"--save-model can't save model .*: NotImplementedError: no config"):
        stratbench.compare(model, strategies="single", save_model=tmp_path / "models", **work)


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--save-model must be a folder for new files: .* Received: /proc/models\."):
        stratbench.compare(
            *("mlp", "mnist-12k"), strategies="single", save_model="/proc/models", global_batch=30, output=tmp_path
        )
