"""Synthetic examples fit a model: what it takes, and what its losses compare with its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import any_models
import keras
import numpy as np
import pytest
from conformance import assert_same, keep_weights, weights  # noqa: F401
from conftest import STARTER, Write
from keras import layers
from stratbench.datasets.base import Array, parse
from stratbench.datasets.synthetic import Form, Synthetic, Values
from stratbench.errors import DataError, UsageError
from stratbench.harness.launch.preparing import Preparing
from stratbench.harness.plan import models
from stratbench.harness.worker import building, fitting

pytestmark = pytest.mark.slow

HEAD = """
import keras
from keras import layers
"""
LABEL = Values((), "int32", "label", 3)
WITHOUT_DATA = ("cnn", "dsn", "mlp", "mlp-wide")
"""Models that take examples of any shape."""


def prepared(tmp_path: Path, model: str, dataset: str = "synthetic") -> tuple[str, list[str]]:
    """The file that such a run reads, and what was told."""
    told: list[str] = []
    return Preparing(tmp_path / "out", STARTER, 60.0, told.append).file(dataset, model, ""), told


class TestForm:
    @pytest.mark.parametrize(
        ("case", "x", "y"),
        [
            (
                "two_by_two",
                {"ids": Values((5,), "uint16", below=20), "wide": Values((6,))},
                {"kind": Values((), "int32", "label", 4), "score": Values((3,))},
            ),
            ("regression", Values((6,)), Values((3,))),
            ("segmentation", Values((8, 8, 1)), Values((8, 8), "int32", "label", 3)),
            ("binary", Values((6,)), Values((1,), "float32", "binary")),
            ("autoencoder", Values((6,)), Values((6,))),
            ("masked", Values((8,), "uint8", below=20), Values((8,), "int32", "label", 5)),
            (
                "normalised",
                Values((8,), "uint8", below=20),
                {"tag": Values((8,), "int32", "label", 5), "length": Values((1,))},
            ),
        ],
    )
    def test_of_models_as_users_compile_them(self, case: str, x: Any, y: Any) -> None:
        with building.recording():
            model = getattr(any_models, case)()
        assert fitting.form_of(model) == Form(x, y)

    @pytest.mark.parametrize(
        ("outputs", "loss", "expected"),
        [
            (3, None, LABEL),
            (3, "sparse_categorical_crossentropy", LABEL),
            (3, "categorical_crossentropy", LABEL),
            (3, keras.losses.CategoricalFocalCrossentropy(), LABEL),
            (3, keras.losses.sparse_categorical_crossentropy, LABEL),
            (3, keras.losses.KLDivergence(), LABEL),
            (3, "binary_crossentropy", Values((3,), "float32", "binary")),
            (1, keras.losses.Hinge(), Values((1,), "float32", "binary")),
            (3, "mae", Values((3,))),
            (3, ["mse"], Values((3,))),
            (3, keras.losses.CosineSimilarity(), Values((3,))),
        ],
    )
    def test_of_losses(self, outputs: int, loss: Any, expected: Values) -> None:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(outputs)])
        if loss is not None:
            with building.recording():
                model.compile(loss=loss)
        assert fitting.form_of(model).y == expected

    def test_targets_at_each_place(self) -> None:
        model = keras.Sequential([keras.Input((None, 4)), layers.Dense(3, activation="softmax")])
        with building.recording():
            model.compile(loss="categorical_crossentropy")
        assert fitting.form_of(model) == Form(Values((64, 4)), Values((64, 3), "float32", "one-hot"))

    def test_a_language_model_is_trained_on_the_next_ids(self) -> None:
        ids = keras.Input((9,), dtype="int64")
        model = keras.Model(ids, layers.Dense(30)(layers.Embedding(30, 4)(ids)))
        with building.recording():
            model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert fitting.form_of(model) == Form(Values((9,), "int64", below=30), Values((9,), "int32", "next", 30))

    def test_ids_are_found_behind_slices_and_in_nested_models(self) -> None:
        ids = keras.Input((2,))
        small, large = layers.Embedding(7, 4)(ids[:, :1]), layers.Embedding(50, 4)(ids[:, 1:])
        both = keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Concatenate(1)([small, large]))))
        assert fitting.form_of(both).x == Values((2,), "int32", below=7)
        outer = keras.Input((2,), dtype="int32")
        assert fitting.form_of(keras.Model(outer, both(outer))).x == Values((2,), "int32", below=7)

    def test_bytes_and_flags(self) -> None:
        picture, flag = keras.Input((4, 4, 1), dtype="uint8"), keras.Input((1,), dtype="bool")
        flat = layers.Flatten()(layers.Rescaling(1 / 255)(picture))
        model = keras.Model([picture, flag], layers.Dense(2)(layers.Concatenate()([flat, flag])))
        assert fitting.form_of(model).x == (Values((4, 4, 1), "uint8", below=256), Values((1,), "bool", below=2))

    def test_of_a_model_that_does_not_say_it(self) -> None:
        text = keras.Input((1,), dtype="string")
        with pytest.raises(fitting.UnclearError, match="is text"):
            fitting.form_of(keras.Model(text, layers.Identity()(text)))
        with pytest.raises(fitting.UnclearError, match="functional or sequential"):
            fitting.form_of(keras.Sequential([layers.Dense(3)]))
        own = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        with building.recording():
            own.compile(loss=lambda y, scores: keras.ops.mean(scores))
        with pytest.raises(fitting.UnclearError, match="not one of Keras's"):
            fitting.form_of(own)


class TestPreparing:
    def test_a_model_of_the_user(self, tmp_path: Path, write: Write) -> None:
        model = write("def make(): return keras.Sequential([layers.Input((6,)), layers.Dense(3)])")
        path, told = prepared(tmp_path, model)
        assert told == [f"synthetic examples fit model {model}: x float32 (6,); y int32 () one of 3 classes"]
        assert prepared(tmp_path, model)[0] == path
        dataset = parse("synthetic:examples=500", path)
        assert (dataset.info().x, dataset.info().classes, dataset.reference) == (
            Array((6,), "float32"),
            3,
            "synthetic:examples=500",
        )
        assert dataset.digest() and dataset.digest() in path
        Path(path).write_text("{}")
        with pytest.raises(DataError, match="can't be read from"):
            parse("synthetic", path).info()

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (
                "def make(shape, classes): return keras.Sequential([layers.Input(shape), layers.Dense(classes)])",
                "examples of any shape",
            ),
            ("def make(): return keras.Sequential([layers.Dense(3)])", "only a functional or sequential model"),
        ],
    )
    def test_a_model_that_does_not_say_it_gets_the_usual_examples(
        self, tmp_path: Path, write: Write, code: str, reason: str
    ) -> None:
        path, told = prepared(tmp_path, write(code))
        assert path == "" and reason in told[0] and "(28, 28, 1)" in told[0]
        assert not (tmp_path / "out").exists()

    def test_a_shape_of_the_users_is_kept(self, tmp_path: Path) -> None:
        for dataset in ("synthetic:shape=28x28x1", "synthetic:classes=10", "mnist-12k"):
            assert prepared(tmp_path, "nowhere:make", dataset) == ("", [])

    def test_a_model_that_can_not_be_built(self, tmp_path: Path, write: Write) -> None:
        with pytest.raises(UsageError, match="failed when called: RuntimeError: no"):
            prepared(tmp_path, write("def make(): raise RuntimeError('no')"))
        with pytest.raises(UsageError, match="Did you mean 'ResNet50'"):
            prepared(tmp_path, "keras.applications:ResNet5")


def test_keras_applications_get_the_size_of_the_data() -> None:
    info = Synthetic((32, 32, 3), 5).info()
    model = building.build("keras.applications:MobileNetV2", info)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 5))


@pytest.mark.parametrize("name", [name for name in models.available() if name not in WITHOUT_DATA])
def test_models_of_stratbench_take_what_they_ask_for(name: str, tmp_path: Path) -> None:
    path, told = prepared(tmp_path, name)
    info = parse("synthetic", path).info()
    model = models.own(name)
    assert model is not None
    model.check(info)
    assert model.build(info).count_params() > 100_000 and told
    for wrong in ("synthetic:shape=7", "mnist-12k" if name != "resnet20" else "synthetic:shape=7x7x3"):
        with pytest.raises(UsageError, match=f"model {name} needs"):
            model.check(parse(wrong).info())


def test_the_parameters_of_resnet20_are_those_of_the_paper() -> None:
    model = models.own("resnet20")
    assert model is not None
    assert model.build(Synthetic((32, 32, 3)).info()).count_params() == pytest.approx(0.27e6, rel=0.02)


TOLERANCE = 1e-4
"""Of weights, relative to their norm: those of the last normalisation are small sums of many gradients."""
TENSOR = "model-parallel:split=tensor"
SMALL = {
    "recsys:rows=800,width=8": ("horovod", "mirrored", "ps:sync=true", "fsdp", TENSOR),
    "transformer:vocabulary=300,width=16": ("ps:sync=true", "multiworker", TENSOR),
    "gpt-small:vocabulary=100,width=16,blocks=1": ("mirrored", "allgather", TENSOR),
}
"""Strategies that each model is trained by; all but the first are ``exhaustive``."""


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory):
    """Settings of a model's run, and the weights that `single` ends with."""
    known: dict[str, tuple[dict[str, Any], list[np.ndarray]]] = {}

    def get(model: str) -> tuple[dict[str, Any], list[np.ndarray]]:
        if model not in known:
            folder = tmp_path_factory.mktemp("model")
            path, _ = prepared(folder, model)
            work = {"model": model, "dataset": "synthetic:examples=1200", "data_file": path, "optimizer": "momentum"}
            known[model] = work, weights("single", 1, folder=folder / "run", **work)
        return known[model]

    return get


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        pytest.param(model, strategy, marks=[pytest.mark.exhaustive] if number else [])
        for model, strategies in SMALL.items()
        for number, strategy in enumerate(strategies)
    ],
)
def test_models_are_trained_alike(model: str, strategy: str, single, tmp_path: Path) -> None:
    work, expected = single(model)
    assert_same(weights(strategy, 2, folder=tmp_path / "run", **work), expected, TOLERANCE)
