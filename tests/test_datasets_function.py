"""Data from a function of the user's: understood, refused in a line, kept once, and read by every process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import Write
from dataset_helpers import whole
from stratbench.datasets.base import Array, parse
from stratbench.datasets.prepared import Function, UnfitError, check, keep
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.harness.launch import preparing
from stratbench.harness.worker import examples, prepare
from stratbench.results import load

# TensorFlow takes seconds to load, and the suite in which this is the first to do so says so.
pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
HEAD = """
import keras
import numpy as np
import tensorflow as tf

X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
"""


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        return X[place * 15 : place * 15 + 15], Y[place * 15 : place * 15 + 15]


class Sequence:
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return X[place], Y[place]


def stream(rows: slice = slice(None)) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X[rows], Y[rows])).batch(7)


WHOLE = {
    "arrays": (X, Y),
    "tensors": (tf.constant(X), tf.constant(Y)),
    "a list of numbers": [X.tolist(), Y.tolist()],
    "a PyDataset": Batches(),
    "a sequence": Sequence(),
    "tf.data": stream(),
    "a dictionary": {"train": (X, Y)},
}


def sets(returned: Any) -> dict[str, Any]:
    return {name: whole(each) for name, each in examples.sets(returned).items()}


@pytest.mark.parametrize("kind", WHOLE)
def test_one_set(kind: str) -> None:
    found = sets(WHOLE[kind])
    assert list(found) == ["train"]
    x, y = found["train"]
    np.testing.assert_allclose(x, X, rtol=1e-6)
    assert y.tolist() == Y.tolist()


SEVERAL = {
    "Keras's own form": ((X[:40], Y[:40]), (X[40:], Y[40:])),
    "streams": (stream(slice(0, 40)), stream(slice(40, 60))),
    "by name": {"test": (X[40:], Y[40:]), "train": (X[:40], Y[:40])},
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_sets_of_their_own(kind: str) -> None:
    found = sets(SEVERAL[kind])
    assert {name: len(each[0]) for name, each in found.items()} == {"train": 40, "test": 20}
    np.testing.assert_array_equal(found["test"][0], X[40:])


def test_sets_without_targets() -> None:
    found = sets((({"a": X[:40]},), ({"a": X[40:]},)))
    assert {name: len(each[0]["a"]) for name, each in found.items()} == {"train": 40, "test": 20}
    assert list(sets(((X,), (Y,)))) == ["train"]


def test_keys_of_another_order_are_the_same_arrays() -> None:
    found = sets({"train": ({"b": X, "a": Y}, Y), "test": ({"a": Y[:5], "b": X[:5]}, Y[:5])})
    check(found)
    assert list(found["train"][0]) == list(found["test"][0]) == ["a", "b"]


def test_three_sets() -> None:
    found = sets(((X[:30], Y[:30]), (X[30:50], Y[30:50]), (X[50:], Y[50:])))
    assert {name: len(each[0]) for name, each in found.items()} == {"train": 30, "validation": 20, "test": 10}


def test_structures_come_back_as_they_were(tmp_path: Path) -> None:
    x = {"b": X, "a/é": (X[:, 0], np.arange(60, dtype="uint16"))}
    file = keep(tmp_path, examples.sets((x, [X, Y], np.ones(60))))
    dataset = parse("some.module:function", str(file))
    info = dataset.info()
    assert info.x == {"b": Array((3,), "float32"), "a/é": (Array((), "float32"), Array((), "uint16"))}
    assert info.y == (Array((3,), "float32"), Array((), "int64")) and info.sample_weight == Array((), "float64")
    rows = np.array([5, 59, 0])
    found, (again, labels), weights = dataset.read(rows)
    np.testing.assert_array_equal(found["b"], X[rows])
    np.testing.assert_array_equal(found["a/é"][1], rows)
    np.testing.assert_array_equal(again, X[rows])
    assert labels.tolist() == Y[rows].tolist() and weights.tolist() == [1, 1, 1]
    assert dataset.reference == "some.module:function" and dataset.digest() in file.name


def test_the_order_of_a_shuffle_makes_no_difference(tmp_path: Path) -> None:
    def shuffled(seed: int) -> Any:
        return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(60, seed=seed).batch(8)

    names = {keep(tmp_path, examples.sets(shuffled(seed))).name for seed in (1, 2)}
    assert len(names) == 1
    (x, y) = sets(shuffled(1))["train"]
    assert sorted(map(tuple, x)) == sorted(map(tuple, X)) and y.tolist() == (x[:, 0] > 0).astype(int).tolist()


def noise() -> tf.Tensor:
    """Other numbers each time, whatever seeds were set before: those of TensorFlow start again with each epoch."""
    drawn = tf.numpy_function(lambda: np.float32(RANDOM.normal()), [], tf.float32)
    return tf.ensure_shape(drawn, ())


def generator() -> Any:
    yield X, Y


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "it must return (x, y), (x, y, sample_weight), a keras.utils.PyDataset, a tf.data"),
    "a generator": (generator, "a generator has no known end"),
    "a number": (lambda: 3, "it must return (x, y)"),
    "random": (lambda: stream().map(lambda x, y: (x + noise(), y)), "the same examples each time"),
    "endless": (lambda: stream().repeat(), "leave out repeat(), or add take(n)"),
    "single examples": (lambda: stream().unbatch().map(lambda x, y: (x[0], y)), "needs batch(n)"),
    "no examples": (lambda: (X[:0], Y[:0]), "the train set must have examples"),
    "no batches": (lambda: stream().take(0), "the train set must have examples"),
    "another key": (lambda: {"train": (X, Y), "tset": (X, Y)}, "Received: train, tset"),
    "no train": (lambda: {"test": (X, Y)}, "must have the key train"),
    "two alike": (lambda: ((X, Y), (X, Y)), "return a dictionary such as {'train': (x, y), 'test': (x, y)}"),
    "ragged": (lambda: ([[1, 2], [3]], [0, 1]), "convertible by np.asarray"),
    "objects": (lambda: (np.array([{}, {}]), Y[:2]), "of numbers or text, and each of one shape"),
    "four parts": (lambda: {"train": (X, Y, Y, Y)}, "the train set must be (x, y), (x, y, sample_weight) or x alone."),
    "batches of four parts": (
        lambda: tf.data.Dataset.from_tensor_slices((X, Y, Y, Y)).batch(7),
        "the train set must give (x, y), (x, y, sample_weight) or x alone. Received: a tuple of 4",
    ),
    "batches of other shapes": (
        lambda: tf.data.Dataset.from_generator(
            lambda: iter([(np.zeros((2, n)), np.zeros(2)) for n in (1, 2)]), output_types=("float32", "float32")
        ),
        "must have examples of one shape",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_understood(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(UnfitError) as caught:
        sets(make())
    assert message in f"{caught.value.rule}. Received: {caught.value.received}."


ALONE = {
    "an array": lambda: X,
    "a set": lambda: {"train": (X,)},
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(X).batch(7),
    "tf.data of tuples": lambda: tf.data.Dataset.from_tensor_slices((X,)).batch(7),
}


@pytest.mark.parametrize("kind", ALONE)
def test_examples_without_targets(kind: str, tmp_path: Path) -> None:
    found = sets(ALONE[kind]())
    assert found.keys() == {"train"}
    np.testing.assert_array_equal(found["train"][0], X)
    assert found["train"][1:] == ((),)
    dataset = Function("data:make", file=str(keep(tmp_path, found)))
    info = dataset.info()
    assert (info.y, info.classes, info.not_classes) == ((), None, "no targets")
    x, y = dataset.read(np.array([3, 1]))
    np.testing.assert_array_equal(x, X[[3, 1]])
    assert y == ()


def test_examples_without_targets_that_are_dictionaries(tmp_path: Path) -> None:
    found = sets({"train": ({"b": X, "a": Y},), "test": ({"a": Y[:9], "b": X[:9]},)})
    dataset = Function("data:make", file=str(keep(tmp_path, found)))
    assert dataset.info().y == () and dataset.info().test_examples == 9
    x, _ = dataset.read(np.array([60, 1]))
    assert list(x) == ["a", "b"] and x["a"].tolist() == [Y[0], Y[1]]


UNFIT = {
    "def make(): return X, Y[:9]": "y of the train set must be of as many rows as the other arrays of the train set,",
    "def make(): return np.array([0, 1]), np.array(['a', 'b'])": "y of the train set must be integers, floats or bool",
    "def make(): return {'train': (X, Y), 'test': (X[:, :2], Y)}": "x of the test set must be of the type and shape of",
    "def make(): return {'train': (X, Y), 'test': X}": "y of the test set must be of the type and shape of the train",
    "def make(): return {'train': (X, Y), 'test': (X, Y, Y)}": "must have sample weights if the others have some",
    "def make(): raise ValueError('no file\\nhere')": "failed when called without arguments: ValueError: no file",
    "def make(n): return X, Y": "failed when called without arguments: TypeError",
    "def make():\n    raise SystemExit(3)": "failed when called without arguments: SystemExit: 3",
    "def made(): return X, Y": "has no function 'make'. Did you mean 'made'?",
    "import nowhere": "does not import: ModuleNotFoundError",
    "class Bad:\n    def __len__(self): return 2\n    def __getitem__(self, place): raise OSError('gone')\n"
    "def make(): return Bad()": "failed while its examples were read: OSError: gone",
}


@pytest.mark.parametrize("text", UNFIT)
def test_a_function_that_can_not_be_used_is_one_line(text: str, write: Write, tmp_path: Path) -> None:
    reference = write(text)
    with pytest.raises(UsageError) as caught:
        prepare.prepare(folder=str(tmp_path), function=reference)
    assert UNFIT[text] in str(caught.value) and str(caught.value).startswith(f"data set {reference}")
    assert "\n" not in str(caught.value)


def test_a_module_of_another_package_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "psutil.py").write_text("def make(): return 1")
    with pytest.raises(UsageError, match=r"^data set psutil:make: psutil, from .*__init__.py, has no function 'make'"):
        prepare.prepare(folder=str(tmp_path), function="psutil:make")


def call(*arguments: str) -> int:
    return cli(list(map(str, arguments)), standalone_mode=False) or 0


def test_a_comparison_by_functions_alone(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_strays: None
) -> None:
    reference = write(
        "def make():\n    print('loading')\n    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(200).batch(9)"
    )
    model = reference.replace(":make", ":model")
    arguments = ("compare", "-s", "single", "-s", "mirrored", "-n", "2", "--model", model, "--dataset", reference)
    arguments += ("--global-batch", "20", "--epochs", "2", "--output", str(tmp_path / "out"))
    assert call(*arguments) == 0
    out, error = capsys.readouterr()
    assert "the 200 examples of" in error and "loading" not in out + error
    (file,) = (tmp_path / "out" / preparing.FOLDER).iterdir()
    runs = load(tmp_path / "out").runs
    assert runs["status"].tolist() == ["ok", "ok"] and set(runs["data_digest"]) == {file.stem[5:]}
    assert runs["test_accuracy"].nunique() == 1 and runs["dataset"].unique().tolist() == [reference]
    # Again: the same examples, in another order.
    assert call(*arguments) == 0
    assert "2 of 2 runs are ok already" in capsys.readouterr().err
    assert list((tmp_path / "out" / preparing.FOLDER).iterdir()) == [file]


def test_what_a_killed_command_left_is_removed(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write("def make(): return None")
    left, other = (
        tmp_path / "out" / preparing.FOLDER / f".unfinished-{socket.gethostname()}-{pid}-x"
        for pid in (2**22 + 1, os.getpid())
    )
    for folder in (left, other):
        folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="Received: NoneType"):
        call("run", "-s", "single", "--dataset", reference, "--global-batch", "20", "--output", str(tmp_path / "out"))
    assert not left.exists() and other.exists()


def test_nothing_is_left_where_nothing_was_kept(write: Write, tmp_path: Path) -> None:
    reference = write("def make(): return None")
    with pytest.raises(UsageError, match="Received: NoneType"):
        call("run", "-s", "single", "--dataset", reference, "--global-batch", "20", "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_that_takes_too_long(write: Write, tmp_path: Path, no_strays: None) -> None:
    reference = write("import time\ndef make(): time.sleep(600)")
    with pytest.raises(UsageError, match=r"can't be prepared: it took more than 2 s \(--timeout\)"):
        call(
            *("run", "-s", "single", "--dataset", reference, "--global-batch", "20", "--timeout", "2"),
            *("--output", str(tmp_path / "out")),
        )
