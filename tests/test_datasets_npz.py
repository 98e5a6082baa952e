"""Arrays in a file of NumPy's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA
from dataset_helpers import message
from stratbench.datasets.base import Array, parse
from stratbench.datasets.split import split_rows
from stratbench.errors import DataError

ROWS = np.arange(60)
X = ROWS[:, None].repeat(3, axis=1).astype(">u2")


def save(folder: Path, **arrays: Any) -> str:
    np.savez_compressed(folder / "a.npz", **{"x": X, "y": ROWS % 4} | arrays)
    return f"npz:{folder / 'a.npz'}"


def test_labels_and_examples(tmp_path: Path) -> None:
    dataset = parse(save(tmp_path))
    info = dataset.info()
    assert (info.examples, info.x, info.classes, info.block_rows) == (60, Array((3,), "uint16"), 4, 1)
    x, y = dataset.read(ROWS[::-1])
    assert x.dtype == np.dtype("=u2") and x[:, 2].tolist() == y.dtype.type(ROWS[::-1]).tolist()
    assert y.dtype == np.int32 and np.array_equal(y, ROWS[::-1] % 4)


def test_targets_sets_and_weights_by_their_names(tmp_path: Path) -> None:
    more = {"t": X[:20], "tt": ROWS[:20] / 2, "wide": ROWS / 2, "w": ROWS.astype("f4"), "tw": np.ones(20, "f4")}
    reference = save(tmp_path, **more) + ",y=wide,sample_weight=w,test_x=t,test_y=tt,test_sample_weight=tw"
    dataset = parse(reference)
    assert parse(dataset.reference) == dataset
    info = dataset.info()
    assert (info.train_examples, info.test_examples, info.y) == (60, 20, Array((), "float64"))
    assert info.not_classes.startswith("float64, such as")
    x, y, weight = dataset.read(np.array([7, 63]))
    assert (x[:, 0].tolist(), y.tolist(), weight.tolist()) == ([7, 3], [3.5, 1.5], [7, 1])


def test_names_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(path, x_train=X, y_train=ROWS % 3, x_test=X[:30], y_test=ROWS[:30] % 3)
    info = parse(f"npz:{path}").info()
    assert (info.train_examples, info.test_examples, info.classes) == (60, 30, 3)
    # One that is named is not replaced.
    assert "must be one of the arrays in the file" in message(parse(f"npz:{path},x=x_train").info)


@pytest.mark.skipif(not DATA.is_dir(), reason="the whole of MNIST is not on this machine")
def test_the_file_of_mnist() -> None:
    info = parse(f"npz:{DATA / 'mnist.npz'},scale=1/255").info()
    assert (info.train_examples, info.test_examples, info.classes) == (60_000, 10_000, 10)
    assert info.x == Array((28, 28), "uint8") and len(split_rows(info, "default")["validation"]) == 6_000


@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        ({}, ",x=z", "x of {it} must be one of the arrays in the file: x, y. Received: 'z'"),
        ({"y": ROWS[:50]}, "", "y of {it} must be of as many rows as x, 60. Received: 50"),
        ({"y": np.array(["a", "b"])}, "", "integers, floats or booleans of at most 64 bits. Received: text, <U1"),
        ({"x": X * 1j}, "", "Received: complex128"),
        ({"x": np.array([{}, 1])}, "", "must be readable by np.load"),
        ({"x": np.float32(3)}, "", "x of {it} must be of shape (examples, ...). Received: a single value"),
        ({"y": ROWS / 2}, ",classes=4", "y of {it} must be class indices stored as integers. Received: float64"),
        ({}, ",classes=3", "y of {it} must be labels of 0..2 for 3 classes. Received: 3 in row 3"),
    ],
)  # fmt: skip
def test_what_will_not_do_is_one_line(tmp_path: Path, arrays: Any, options: str, expected: str) -> None:
    dataset = parse(save(tmp_path, **arrays) + options)
    for text in (message(dataset.info), message(lambda: dataset.read(ROWS), DataError)):
        assert expected.format(it=dataset.reference) in text


def test_files_that_are_none(tmp_path: Path) -> None:
    reference = save(tmp_path)
    path = tmp_path / "a.npz"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for at in random.integers(len(whole), size=4):
            damaged[at] = random.integers(256)
        path.write_bytes(bytes(damaged)[: random.integers(1, len(whole) + 1)])
        dataset = parse(reference)
        try:
            dataset.read(ROWS)
        except DataError as error:
            assert "\n" not in str(error) and "Received: " in str(error)
    np.save(tmp_path / "one.npy", X)
    assert "np.savez writes several" in message(parse(f"npz:{tmp_path / 'one.npy'}").info)
    assert "must be an existing file" in message(parse(f"npz:{tmp_path / 'none.npz'}").info)
    assert "must be a regular file" in message(parse(f"npz:{tmp_path}").info)
