"""Examples and targets reach the model and its loss as they are stored, or as the data set and the loss say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Write, make_spec
from stratbench.errors import UsageError
from stratbench.harness.worker import trial
from test_compiled import HEAD  # noqa: F401

# TensorFlow takes seconds to load, and the suite in which this is the first to do so says so.
pytestmark = pytest.mark.slow


class TestInput:
    """Examples reach the model as they are stored, or scaled as the data set says."""

    def file(self, folder: Path, x: np.ndarray) -> str:
        with h5py.File(folder / "data.h5", "w") as file:
            file["x"], file["y"] = x, np.arange(len(x)) % 2
        return f"hdf5:{folder / 'data.h5'}"

    def seen(self, dataset: str) -> np.ndarray:
        from stratbench.harness.worker.workload import SpecWorkload

        workload = SpecWorkload(make_spec(dataset=dataset, global_batch=8))
        return np.asarray(workload.inputs(next(workload.batches(1, 0).epoch(0))))

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "float32", "float64"])
    def test_as_stored(self, dtype: str, tmp_path: Path) -> None:
        values = np.arange(400).reshape(100, 4) % 100
        seen = self.seen(self.file(tmp_path, values.astype(dtype)))
        assert seen.dtype == dtype and seen.max() > 90

    def test_ids_above_the_integers_of_float32_are_exact(self, tmp_path: Path) -> None:
        ids = np.full((100, 3), 2**24 + 1, "uint32")
        assert (self.seen(self.file(tmp_path, ids)) == 2**24 + 1).all()

    @pytest.mark.parametrize(("scale", "factor"), [("1/255", 1 / 255), ("0.5", 0.5), ("2/3", 2 / 3)])
    def test_scaled_as_asked_for(self, scale: str, factor: float, tmp_path: Path) -> None:
        values = np.full((100, 4), 51, "uint8")
        seen = self.seen(self.file(tmp_path, values) + f",scale={scale}")
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, 51 * factor, rtol=1e-6)

    def test_mnist_is_scaled_to_one_unless_asked_not_to_be(self) -> None:
        assert self.seen("mnist-12k").max() == 1.0
        as_stored = self.seen("mnist-12k:scale=1")
        assert as_stored.dtype == np.uint8 and as_stored.max() == 255

    def test_the_spec_says_what_the_model_sees(self, tmp_path: Path) -> None:
        assert make_spec(dataset="mnist-12k").input == "uint8 × 1/255"
        assert make_spec(dataset="mnist-12k:scale=1").input == "uint8"
        assert make_spec(dataset=self.file(tmp_path, np.zeros((100, 4), "int32")), global_batch=8).input == "int32"

    def test_bytes_are_not_scaled_twice(self, write: Write) -> None:
        reference = write(
            "def make(shape, classes):\n"
            "    return keras.Sequential([layers.Input(shape), layers.Rescaling(1 / 255), layered(shape, classes)])"
        )
        with pytest.raises(UsageError, match=r"scales its examples itself.*scale=1"):
            trial.attempt(make_spec(model=reference, dataset="mnist-12k"))
        assert trial.attempt(make_spec(model=reference, dataset="mnist-12k:scale=1"))["unused"] == ""

    OWN = """
class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(%d)

    def call(self, x):
        return self.dense(keras.ops.cast(x, "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred)

class Loss(losses.Loss):
    def call(self, y, predictions):
        return keras.ops.mean(predictions, axis=-1)

def make():
    model = %s
    model.compile(%s)
    return model
"""
    DENSE = "keras.Sequential([layers.Input((4,)), layers.Dense(%d)])"

    @pytest.mark.parametrize(
        ("stored", "model", "outputs", "compiled", "seen"),
        [
            # What is stored: by a method or a loss of the user's, or where the outputs are no scores.
            ("column", "Own()", 3, "", ("int64", (8, 1))),
            ("column", DENSE, 3, "loss=Loss()", ("int64", (8, 1))),
            ("column", DENSE, 3, "loss=lambda y, p: keras.ops.mean(p, axis=-1)", ("int64", (8, 1))),
            ("column", DENSE, 1, "loss='mse'", ("int64", (8, 1))),
            ("bool", DENSE, 1, "loss='binary_crossentropy'", ("bool", (8,))),
            ("rows", "Own()", 3, "", ("uint8", (8, 3))),
            ("rows", DENSE, 3, "loss=Loss()", ("uint8", (8, 3))),
            # What Keras's own losses of scores need.
            ("column", DENSE, 3, "loss='sparse_categorical_crossentropy'", ("int32", (8,))),
            ("column", DENSE, 3, "loss=[losses.CategoricalCrossentropy(name='sparse')]", ("float32", (8, 3))),
            ("rows", DENSE, 3, "loss=losses.SparseCategoricalCrossentropy(name='mine')", ("int32", (8,))),
            ("rows", DENSE, 3, "loss='mse'", ("float32", (8, 3))),
        ],
    )
    def test_the_form_of_targets(
        self, stored: str, model: str, outputs: int, compiled: str, seen: Any, write: Write, tmp_path: Path
    ) -> None:
        from stratbench.harness.worker.workload import SpecWorkload

        labels = np.arange(400) % (2 if stored == "bool" else 3)
        y = {"column": labels[:, None], "bool": labels == 1, "rows": np.eye(3)[labels].astype("uint8")}[stored]
        with h5py.File(tmp_path / "data.h5", "w") as file:
            file["x"], file["y"] = np.zeros((400, 4), "float32"), y
        model = model % outputs if "%" in model else model
        reference = write(self.OWN % (outputs, model, compiled))
        workload = SpecWorkload(make_spec(model=reference, dataset=f"hdf5:{tmp_path / 'data.h5'}", global_batch=8))
        workload.model()
        batch = next(workload.batches(1, 0).epoch(0))
        found = np.asarray(workload.unpack(batch)[1])
        assert (found.dtype.name, found.shape) == seen
        assert np.array_equal(found.argmax(1) if found.shape == (8, 3) else found.reshape(-1), batch[1])

    def test_token_ids_reach_an_embedding(self, write: Write, tmp_path: Path) -> None:
        reference = write(
            "def make(shape, classes):\n    return keras.Sequential([layers.Input(shape, dtype='uint8'), "
            "layers.Embedding(200, 3, name='ids'), layers.GlobalAveragePooling1D(), layers.Dense(classes)])"
        )
        dataset = self.file(tmp_path, (np.arange(400).reshape(100, 4) % 200).astype("uint8"))
        unused = trial.attempt(make_spec(model=reference, dataset=dataset, global_batch=8))["unused"]
        assert unused == ""
