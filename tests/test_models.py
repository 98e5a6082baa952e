"""The models that come with stratbench and the user's own: what is taken, what is refused, which loss they get."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import STARTER, Write, make_spec
from stratbench.datasets.base import Array, Info
from stratbench.errors import UsageError
from stratbench.harness.launch import trying
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan import models
from stratbench.harness.worker import building
from stratbench.harness.worker.objective import Objective

# TensorFlow takes seconds to load, and the suite in which this is the first to do so says so.
pytestmark = pytest.mark.slow


HEAD = """
import keras
from keras import layers

def layered(shape, classes, **last):
    return keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(classes, **last)])
"""

LABELS = np.array([0, 2, 1, 2], dtype="int32")
SCORES = np.array([[2.0, 0.1, -1.0], [0.3, 0.2, 0.4], [-1.0, 0.5, 3.0], [0.0, -2.0, 1.0]], dtype="float32")
SOFTMAX = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
CROSS_ENTROPY = float(np.mean(-np.log(SOFTMAX[np.arange(4), LABELS])))


def build(reference: str, shape: tuple[int, ...], classes: int) -> Any:
    return fit(reference, shape, classes)[0]


def fit(reference: str, shape: tuple[int, ...], classes: int) -> tuple[Any, Objective]:
    """The model, built and compiled for such examples."""
    info = Info(None, None, 100, Array(shape, "float32"), classes=classes)
    model = building.build(reference, info)
    return model, Objective(reference, model, info, tries=models.own(reference) is None)


def workload(**changes: Any) -> Any:
    from stratbench.harness.worker.workload import SpecWorkload

    return SpecWorkload(make_spec(**changes))


def loss_of(reference: str, predictions: np.ndarray = SCORES) -> float:
    """The loss of `LABELS` by the loss that the model's reference leads to."""
    import tensorflow as tf

    _, objective = fit(reference, (2, 2, 1), 3)
    value = objective.loss(objective.targets(tf.constant(LABELS)), tf.constant(predictions), None)
    assert value.shape == ()
    return float(value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", (784 * 16 + 16) + (16 * 16 + 16) + (16 * 10 + 10)),
        ("mlp-wide", (784 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 10 + 10)),
        ("cnn", 25 * 32 + 25 * 32 * 64 + (4 * 4 * 64 * 128 + 128) + (128 * 10 + 10)),
    ],
)
def test_built_in_models_have_their_size_and_shape(name: str, parameters: int) -> None:
    model = build(name, (28, 28, 1), 10)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)
    assert name in models.available()


def test_the_documented_sizes() -> None:
    assert build("mlp", (28, 28, 1), 10).count_params() == 13_002
    assert build("mlp-wide", (28, 28, 1), 10).count_params() == pytest.approx(1.9e6, rel=0.05)


def test_the_width_of_mlp_wide_is_an_option() -> None:
    models.check_reference("mlp-wide:units=8")
    assert build("mlp-wide:units=8", (5,), 3).count_params() == (5 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)
    assert models.describe("mlp-wide")["options"][0]["default"] == 1024


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mlp-wide:unit=8", "model mlp-wide has the options units. Received: 'unit'."),
        ("mlp:units=8", "model mlp has no options. Received: 'units'."),
        ("mlp-wide:units=0", "option units of model mlp-wide must be an integer, at least 1. Received: '0'."),
        ("mlp-wide:units=-3", "must be an integer, at least 1. Received: '-3'."),
        ("mlp-wide:units=big", "must be an integer, at least 1. Received: 'big'."),
        ("mlp-wide:units=", "must be an integer, at least 1. Received: ''."),
        ("mlp-wide:units=8,", "an option must be key=value. Received: ''."),
        ("mlp-wide:units=8,units=9", "option units must be given once."),
    ],
)
def test_unfit_options_of_a_built_in_model_are_refused_in_one_line(reference: str, message: str) -> None:
    for refuse in (models.check_reference, lambda name: build(name, (5,), 3)):
        with pytest.raises(UsageError) as caught:
            refuse(reference)
        assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_users_module_may_be_called_as_a_model() -> None:
    models.check_reference("cnn:make")


@pytest.mark.parametrize("name", ["mlp", "mlp-wide"])
def test_built_in_models_take_examples_of_any_shape(name: str) -> None:
    for shape in ((5,), (3, 4), (8, 8, 3)):
        assert build(name, shape, 4).output_shape == (None, 4)


@pytest.mark.parametrize("shape", [(20,), (4, 4, 1)])
def test_a_data_set_that_does_not_fit_cnn_is_a_usage_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        build("cnn", shape, 3)
    assert "cnn" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_seed_alone_decides_the_initial_weights() -> None:
    one = workload(model="cnn", seed=7)
    first, again = one.model().get_weights(), one.model().get_weights()
    elsewhere = workload(model="cnn", seed=7, global_batch=24).model().get_weights()
    other = workload(model="cnn", seed=8).model().get_weights()
    for a, b, c in zip(first, again, elsewhere, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(first[0], other[0])
    assert one.parameters == sum(weight.size for weight in first)


def test_mlp_has_half_the_squared_error_as_its_loss() -> None:
    import tensorflow as tf

    ours = workload(model="mlp", dataset="synthetic:shape=2x2x1,classes=3,examples=600")
    ours.model()
    expected = 0.5 * np.mean(np.sum((SCORES - np.eye(3)[LABELS]) ** 2, axis=1))
    assert float(ours.loss((None, tf.constant(LABELS)), tf.constant(SCORES))) == pytest.approx(expected, rel=1e-5)


def test_a_model_without_loss_gets_cross_entropy_by_its_last_activation(write: Write) -> None:
    logits = write("def make(shape, classes): return layered(shape, classes)")
    softmax = write("def make(shape, classes): return layered(shape, classes, activation='softmax')")
    then = "def make(shape, classes): return keras.Sequential([layered(shape, classes), layers.{}])"
    layer, activation = write(then.format("Softmax()")), write(then.format("Activation('softmax')"))
    assert loss_of(logits) == pytest.approx(CROSS_ENTROPY, rel=1e-5)
    for reference in (softmax, activation, layer):
        assert loss_of(reference, SOFTMAX) == pytest.approx(CROSS_ENTROPY, rel=1e-5), reference


@pytest.mark.parametrize(("reduction", "times"), [("sum_over_batch_size", 1), ("mean", 1), ("sum", len(LABELS))])
@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy"])
def test_a_compiled_loss_has_its_reduction(name: str, reduction: str, times: int, write: Write) -> None:
    assert loss_of(write(REDUCED.format(name, reduction))) == pytest.approx(times * CROSS_ENTROPY, rel=1e-5)


def test_a_loss_that_is_not_one_number_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match=r"must have a loss that is one number.*Received: the shape \(2,\)"):
        loss_of(write(REDUCED.format("SparseCategoricalCrossentropy", "none")))


REDUCED = """
def make(shape, classes):
    model = layered(shape, classes)
    model.compile(loss=keras.losses.{}(from_logits=True, reduction={!r}))
    return model
"""


@pytest.mark.parametrize(
    ("loss", "sparse"),
    [
        ("'sparse_categorical_crossentropy'", True),
        ("'categorical_crossentropy'", False),
        ("keras.losses.SparseCategoricalCrossentropy()", True),
        ("keras.losses.SparseCategoricalCrossentropy(name='mine')", True),
        ("keras.losses.CategoricalCrossentropy(name='mine')", False),
        ("keras.losses.sparse_categorical_crossentropy", True),
    ],
)
def test_only_a_sparse_loss_is_given_class_indices(loss: str, sparse: bool, write: Write) -> None:
    reference = write(f"""
def make(shape, classes):
    model = layered(shape, classes, activation="softmax")
    model.compile(loss={loss})
    return model
""")
    assert loss_of(reference, SOFTMAX) == pytest.approx(CROSS_ENTROPY, rel=1e-4)


def test_a_loss_of_the_users_own(write: Write) -> None:
    reference = write("""
def mine(y, predictions):
    return keras.ops.mean(keras.ops.abs(keras.ops.one_hot(y, 3) - predictions), axis=-1)

def make(shape, classes):
    model = layered(shape, classes)
    model.compile(optimizer="adam", loss=mine, metrics=["accuracy"])
    return model
""")
    assert loss_of(reference) == pytest.approx(float(np.mean(np.abs(np.eye(3)[LABELS] - SCORES))), rel=1e-5)


def test_functions_may_take_nothing_or_the_shape_and_classes(write: Write) -> None:
    fixed = write("def make(): return layered((2, 2, 1), 3)")
    optional = write("def make(width=4): return layered((2, 2, 1), 3)")
    offered = write("def make(shape, classes, width=4): return layered(shape, classes)")
    functional = write("""
def make(shape, classes):
    x = keras.Input(shape)
    return keras.Model(x, layers.Dense(classes)(layers.BatchNormalization()(layers.Flatten()(x))))
""")
    unbuilt = write("def make(): return keras.Sequential([layers.Flatten(), layers.Dense(3)])")
    subclass = write("""
class Mine(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3)

    def call(self, x):
        return self.dense(self.flatten(x))

def make():
    return Mine()
""")
    for reference in (fixed, optional, offered, functional, unbuilt, subclass):
        assert build(reference, (2, 2, 1), 3).count_params() >= 15, reference
        assert loss_of(reference) == pytest.approx(CROSS_ENTROPY, rel=1e-5), reference


REFUSED = {
    "too few outputs": (
        "def make(shape, classes): return layered(shape, classes - 1)",
        "output shape (None, 10), or be compiled with a loss. Received: (None, 9), and no loss",
    ),
    "a picture comes out": (
        "def make(): return keras.Sequential([layers.Input((28, 28, 1)), layers.Dense(10)])",
        "Received: (None, 28, 28, 10)",
    ),
    "another input": ("def make(): return layered((5, 5, 3), 10)", "must accept examples of shape (28, 28, 1)"),
    "two outputs": (
        "def make(shape, classes):\n    x = keras.Input(shape)\n    y = layers.Dense(classes)(layers.Flatten()(x))\n"
        "    return keras.Model(x, [y, y])",
        "or be compiled with a loss. Received: (None, 10), (None, 10), and no loss",
    ),
    "no model": ("def make(): return 7", "must return a Keras model. Received: int"),
    "nothing": ("def make(shape, classes): layered(shape, classes)", "Received: NoneType"),
    "it raises": ("def make(): raise ValueError('first line\\nsecond line')", "ValueError: first line"),
    "one parameter": ("def make(shape): return layered(shape, 10)", "must take no arguments or (shape, classes)"),
    "no such function": ("def mak(): return 7", "has no function 'make'. Did you mean 'mak'?"),
    "no function": ("make = 7", "has no function 'make'"),
    "import error": ("import no_such_package", "does not import: ModuleNotFoundError: No module named"),
    "syntax error": ("def make(:", "does not import: SyntaxError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_will_not_do_is_refused_in_one_line(case: str, write: Write) -> None:
    text, message = REFUSED[case]
    reference = write(text)
    with pytest.raises(UsageError) as caught:
        build(reference, (28, 28, 1), 10)
    assert message in str(caught.value) and reference in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_that_is_not_there_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="No module named 'nowhere'"):
        build("nowhere:make", (2,), 2)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:make", r"Use nowhere:make\.$"),
        (
            "in/a/folder/nowhere.py:make",
            r"Use nowhere:make, with in/a/folder as the current folder or in PYTHONPATH\.$",
        ),
    ],
)
def test_a_file_in_place_of_a_module_is_refused(reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(reference, (2,), 2)


@pytest.mark.parametrize("reference", ["", "cn", "cnn:", ":make", "package.module", "mlp_wide"])
def test_references_are_checked_without_tensorflow(reference: str) -> None:
    with pytest.raises(UsageError, match=r"mlp-wide, .* or keras\.applications:NAME, or package\.module:function"):
        models.check_reference(reference)


class TestTrial:
    """`trying.check` has the model tried in a process of its own, forked or fresh."""

    @pytest.fixture(params=["forked", "fresh"])
    def starter(self, request: pytest.FixtureRequest) -> Starter:
        return STARTER if request.param == "forked" else Starter(forks=False)

    def test_a_good_model_passes(self, write: Write, starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        good = write("print('noise')\ndef make(shape, classes): return layered(shape, classes)")
        assert trying.check([make_spec(model=good)], starter) == trying.Tried()

    def test_one_and_the_same_model_is_noticed(self, write: Write) -> None:
        same = write("one = layered((28, 28, 1), 10)\ndef make(): return one")
        assert trying.check([make_spec(model=same)], STARTER) == trying.Tried(same=True)

    def test_a_built_in_model_needs_no_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trying, "ask", None)
        trying.check([make_spec(model="cnn")], STARTER)

    @pytest.mark.parametrize("code", [0, 2])
    def test_a_module_that_exits_is_refused(self, code: int, write: Write, starter: Starter) -> None:
        reference = write(f"import sys\nsys.exit({code})")
        with pytest.raises(UsageError, match=reference):
            trying.check([make_spec(model=reference)], starter)

    @pytest.mark.parametrize("case", ["too few outputs", "it raises"])
    def test_a_bad_one_is_refused_in_one_line(self, case: str, write: Write, starter: Starter) -> None:
        text, message = REFUSED[case]
        with pytest.raises(UsageError) as caught:
            trying.check([make_spec(model=write(text))], starter)
        assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1

    def test_a_process_that_dies_is_refused_too(self, write: Write, starter: Starter) -> None:
        reference = write("import os\nos.abort()")
        with pytest.raises(UsageError, match=f"{reference} can't be tried") as caught:
            trying.check([make_spec(model=reference)], starter)
        assert len(str(caught.value).splitlines()) == 1

    def test_one_that_does_not_end_is_refused(self, write: Write, starter: Starter, no_strays: None) -> None:
        reference = write("import time\nwhile True: time.sleep(1)")
        with pytest.raises(UsageError, match=rf"{reference} can't be tried: it took more than 3 s \(--timeout\)"):
            trying.check([make_spec(model=reference, timeout=3.0)], starter)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "number",
        [
            signal.SIGINT,
            *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (signal.SIGTERM, signal.SIGKILL)),
        ],
    )
    def test_a_command_that_ends_meanwhile_leaves_nothing(
        self, number: int, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        reference = write("import time\nopen('begun', 'w')\nwhile True: time.sleep(1)")
        work = ["--model", reference, "--dataset", "synthetic", "--steps", "5", "--global-batch", "8"]
        # A program that was started in a shell's background ignores Ctrl-C, and so would this one.
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        program += "from stratbench.harness.cli.commands import main; main()"
        command = [sys.executable, "-c", program, "run", "-s", "single", *work]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not Path("begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=60)
        _, left = psutil.wait_procs(children, timeout=20)
        assert len(children) == 2 and not left
        assert not list(tmp_path.glob("stratbench-*"))
