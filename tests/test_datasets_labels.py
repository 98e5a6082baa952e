"""What labels may be: nothing that isn't a class is made one."""

import h5py
import numpy as np
import pytest
from dataset_helpers import message, windows_of, write
from stratbench.datasets.base import Array, parse
from stratbench.datasets.batches import Batches
from stratbench.datasets.hdf5 import Hdf5
from stratbench.errors import DataError

ROWS = 2000
LABELS = np.arange(ROWS) % 4


def stored(tmp_path, y, options="") -> Hdf5:
    path = write(tmp_path / "a.h5", x=np.zeros((len(y), 2), np.float32), y=y)
    return parse(f"hdf5:{path}{options}")


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        *((LABELS.astype(kind), 4) for kind in ("u1", "i1", ">i2", "u4", "i8", "u8")),
        (LABELS[:, None], 4),
        (LABELS % 2 == 1, 2),
        *((np.eye(6)[LABELS].astype(kind), 6) for kind in ("f2", "f4", ">f8", "u1", "i8", "?")),
        (np.eye(6)[LABELS] * 1.0 - 0.0, 6),
        (LABELS + 1, 5),
    ],
)
def test_labels(tmp_path, y, classes):
    dataset = stored(tmp_path, y)
    assert dataset.info().classes == classes
    found = dataset.read(np.arange(ROWS)[::-1])[1][::-1]
    assert found.dtype == np.int32
    assert np.array_equal(found, y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1).astype(int))


def one_hot_but(row, values):
    y = np.eye(4)[LABELS]
    y[row] = values
    return y


@pytest.mark.parametrize(
    ("y", "received"),
    [
        (one_hot_but(1999, [1, 1, 0, 1]), "3 ones in row 1999"),
        (one_hot_but(7, 0).astype(bool), "0 ones in row 7"),
        (one_hot_but(7, [0.9, 0.05, 0.05, 0]), "values such as 0.9, which sum to 1, in row 7"),
        (one_hot_but(3, [0, 2, 0, 0]).astype(int), "values such as 2 in row 3"),
        (one_hot_but(3, [0, -1, 0, 0]), "values such as -1.0 in row 3"),
        (one_hot_but(3, [1, 0.25, 0, 0]), "values such as 0.25 in row 3"),
        (np.random.default_rng(0).standard_normal((ROWS, 3)), "values such as 0.12573022"),
        ((np.random.default_rng(0).random((ROWS, 5)) < 0.5).astype("f4"), "ones in row"),
        (LABELS * 1.0, "float64, such as 0.0 in row 0"),
        (LABELS[:, None].astype("f4"), "float32, such as 0.0 in row 0"),
        (LABELS + np.where(LABELS == 3, 0.5, 0), "float64, such as 3.5 in row 3"),
        (LABELS - 1, "-1 in row 0"),
        (np.where(LABELS == 3, 2**40, LABELS), f"{2**40} in row 3"),
        (np.zeros(ROWS, int), "the same label, 0, everywhere"),
        (np.zeros((ROWS, 4, 3), "u2") + 2**15, f"shape ({ROWS}, 4, 3)"),
        ((np.arange(ROWS) * 7 % 1999).astype("i2"), "1999 different labels in 2000 rows, the largest 1998"),
        (np.where(LABELS == 0, 255, 0), "2 different labels in 2000 rows, the largest 255"),
    ],
)
def test_what_is_no_class_label_stays_as_stored(tmp_path, y, received):
    dataset = stored(tmp_path, y)
    info = dataset.info()
    assert (info.classes, info.one_hot, info.y) == (None, False, Array(y.shape[1:], y.dtype.name))
    assert received in info.not_classes
    rows = np.random.default_rng(1).permutation(ROWS)
    found = dataset.read(rows)[1]
    assert found.dtype == y.dtype and np.array_equal(found, y[rows])


@pytest.mark.parametrize(
    ("y", "rule", "received"),
    [
        (one_hot_but(1999, [1, 1, 0, 1]), "class indices or one-hot, exactly one 1 a row", "3 ones in row 1999"),
        (one_hot_but(3, [1, np.nan, 0, 0]), "class indices or one-hot, exactly one 1 a row", "nan in row 3"),
        (LABELS * 1.0, "class indices stored as integers; y.astype('int64') makes them", "float64, such as 0.0 in row"),
        (np.where(LABELS == 2, np.nan, 0), "class indices stored as integers", "float64, such as nan in row 2"),
        (np.zeros((ROWS, 4, 3)), "of shape (examples,) or, one-hot, (examples, classes)", "shape (2000, 4, 3)"),
    ],
)
def test_what_is_no_class_label_is_refused_if_classes_are_asked_for(tmp_path, y, rule, received):
    dataset = stored(tmp_path, y, ",classes=4")
    text = message(dataset.info)
    assert text.startswith(f"y of {dataset.reference} must be {rule}. Received: {received}")


@pytest.mark.parametrize(
    ("value", "kind"), [(-1, "i1"), (-(2**63), "i8"), (2**63 + 1, "u8"), (2**64 - 1, "u8"), (2**32 + 1, "u8")]
)
def test_labels_out_of_range(tmp_path, value, kind):
    y = LABELS.astype(kind)
    y[1500] = value
    text = message(stored(tmp_path, y, ",classes=10").info)
    assert "must be labels of 0" in text and text.endswith(f"Received: {value} in row 1500")
    dataset = stored(tmp_path, y)
    assert dataset.info().not_classes == f"{value} in row 1500"
    assert dataset.read(np.array([1500]))[1].tolist() == [value]


def test_labels_beyond_the_classes_given(tmp_path):
    dataset = stored(tmp_path, LABELS, ",classes=3")
    assert message(dataset.info).endswith("must be labels of 0..2 for 3 classes. Received: 3 in row 3")
    assert stored(tmp_path, LABELS, ",classes=1000").info().classes == 1000
    assert "2..1048576. Received: 0" in message(stored(tmp_path, LABELS, ",classes=0").info)


def test_few_labels_of_many_classes_are_classes_if_that_is_said(tmp_path):
    y = LABELS + 1990
    assert stored(tmp_path, y).info().not_classes == "4 different labels in 2000 rows, the largest 1993"
    assert stored(tmp_path, y, ",classes=2048").info().classes == 2048


def test_many_classes_of_many_examples_are_classes(tmp_path):
    assert stored(tmp_path, np.arange(20_000) % 1500).info().classes == 1500


def test_labels_that_change_after_info(tmp_path, monkeypatch):
    """As one-hot: read again, and checked again."""
    dataset = stored(tmp_path, np.eye(4)[LABELS])
    rows = np.arange(ROWS)
    windows_of(monkeypatch, 100, 8)
    source = Batches(dataset, rows, global_batch=50, seed=0)
    assert len(list(source.epoch(0))) == 40
    with h5py.File(dataset.path, "r+") as file:
        file["y"][1234] = 1
    assert message(lambda: list(source.epoch(1)), DataError).endswith("Received: 4 ones in row 1234")


@pytest.mark.parametrize("kind", ["u8", "i8", "u1", "f2", "f4", "f8", "?", ">u8", ">f4"])
def test_examples_stay_as_stored(tmp_path, kind):
    values = np.array([[0, 1]] * 9, kind)
    if np.dtype(kind).kind in "iu" and np.dtype(kind).itemsize == 8:
        values[4] = 2**53 + 1, np.iinfo(np.dtype(kind).newbyteorder("=")).max
    dataset = Hdf5(str(write(tmp_path / "a.h5", x=values, y=np.arange(9) % 2)))
    x, _ = dataset.read(np.arange(9))
    assert dataset.info().x.dtype == x.dtype.name == np.dtype(kind).newbyteorder("=").name
    assert x.dtype.isnative
    assert np.array_equal(x, values)
