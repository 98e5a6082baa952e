"""``keras:NAME``: Keras's own data sets, loaded once by a process that has Keras, and read as any file."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest
from stratbench.datasets.base import Array, parse
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.harness.worker import prepare
from stratbench.results import load

pytestmark = pytest.mark.slow


def fashion(home: Path) -> np.ndarray:
    """Keras's cache, with 100 training and 40 test images. → the training images"""
    folder = home / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, size=(140, 28, 28), dtype="uint8")
    labels = (np.arange(140) % 10).astype("uint8")
    for name, part in (("train", slice(0, 100)), ("t10k", slice(100, 140))):
        for kind, header, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(bytes(header) + values[part].tobytes())
    return images[:100]


def test_a_run_on_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    images = fashion(tmp_path)
    flags = ["--model", "cnn", "--global-batch", "10", "--steps", "3", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        cli(["run", "-s", "single", "--dataset", "keras:fashion_mnist", *flags])
    assert ended.value.code == 0
    (row,) = load(tmp_path / "out").runs.to_dict("records")
    assert (row["dataset"], row["input"], row["status"]) == ("keras:fashion_mnist", "uint8 × 1/255", "ok")
    (file,) = (tmp_path / "out" / "data").iterdir()
    dataset = parse("keras:fashion_mnist,scale=1", str(file))
    info = dataset.info()
    assert (info.x, info.classes, info.scale) == (Array((28, 28, 1), "uint8"), 10, 1)
    assert (info.train_examples, info.test_examples) == (100, 40)
    x, y = dataset.read(np.array([7, 99]))
    np.testing.assert_array_equal(x[..., 0], images[[7, 99]])
    assert y.tolist() == [7, 9] and row["data_digest"] == dataset.digest()


def test_texts_are_padded_and_rare_words_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def load_data(**words: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        given.update(words)
        texts = np.array([[1, 5], [1, 2, 3, 4], [1] * 9], dtype=object)
        return (texts, np.array([0, 1, 1])), (texts[:2], np.array([1, 0]))

    monkeypatch.setattr(keras.datasets.imdb, "load_data", load_data)
    dataset = parse("keras:imdb,num_words=50,maxlen=4")
    found = prepare.prepare(folder=str(tmp_path), **dataset.question)
    assert found["examples"] == 5 and given == {"num_words": 50}
    dataset = parse("keras:imdb,num_words=50,maxlen=4", str(tmp_path / found["file"]))
    x, y = dataset.read(np.array([0, 1, 3]))
    assert x.tolist() == [[0, 0, 1, 5], [1, 2, 3, 4], [0, 0, 1, 5]] and y.tolist() == [0, 1, 1]
    assert dataset.info().scale == 1 and dataset.info().classes == 2


def test_what_can_not_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data() -> None:
        raise OSError("URL fetch failure on https://example.org: None\nmore")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(UsageError) as caught:
        prepare.prepare(folder=str(tmp_path), **parse("keras:cifar10").question)
    assert str(caught.value) == (
        "data set keras:cifar10 can't be loaded by keras.datasets.cifar10.load_data(), which needs a network or "
        "Keras's cache: OSError: URL fetch failure on https://example.org: None"
    )


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("keras:cifar", "must be one of mnist, fashion_mnist, cifar10, .*. Received: 'cifar'"),
        ("keras", "must have its dataset, as in keras:DATASET"),
        (
            "keras:cifar10,maxlen=9",
            "maxlen of data set keras must be at least 1, and is for imdb and reuters",
        ),
        ("keras:imdb,num_words=0", "num_words of data set keras must be at least 1, .* Received: 0 for imdb"),
        ("keras:imdb,length=9", "option of keras must be one of dataset, scale, num_words, maxlen. Received: 'length'"),
    ],
)
def test_what_can_not_be_asked_for(reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(reference)


def test_every_data_set_of_keras_is_known() -> None:
    names = {name for name in dir(keras.datasets) if hasattr(getattr(keras.datasets, name), "load_data")}
    assert names == {name for name in names if parse(f"keras:{name}")}
    assert parse("keras:cifar100").factor == Fraction(1, 255) and parse("keras:boston_housing").factor == 1
