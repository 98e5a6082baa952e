"""What labels may be: nothing that isn't a class is made one."""

import h5py
import numpy as np
import pytest
from dataset_helpers import message, windows_of, write
from stratbench.datasets.base import parse
from stratbench.datasets.batches import Batches
from stratbench.datasets.hdf5 import Hdf5
from stratbench.errors import DataError

ROWS = 2000
LABELS = np.arange(ROWS) % 4
NOT_YET = "stratbench does not train {} yet."


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
    assert found.dtype == np.int64
    assert np.array_equal(found, y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1).astype(int))


def one_hot_but(row, values):
    y = np.eye(4)[LABELS]
    y[row] = values
    return y


@pytest.mark.parametrize(
    ("y", "what", "received"),
    [
        (one_hot_but(1999, [1, 1, 0, 1]), "multi-label targets", "3 ones in row 1999"),
        (one_hot_but(7, 0).astype(bool), "multi-label targets", "0 ones in row 7"),
        (one_hot_but(7, [0.9, 0.05, 0.05, 0]), "probabilities (soft labels)", "such as 0.9, which sum to 1, in row 7"),
        (one_hot_but(3, [0, 2, 0, 0]).astype(int), "regression of several values", "values such as 2 in row 3"),
        (one_hot_but(3, [0, -1, 0, 0]), "regression of several values", "values such as -1.0 in row 3"),
        (one_hot_but(3, [1, 0.25, 0, 0]), "regression of several values", "values such as 0.25 in row 3"),
        (one_hot_but(3, [1, np.nan, 0, 0]), "targets with gaps", "nan in row 3"),
        (one_hot_but(3, [np.inf, 0, 0, 0]), "targets with gaps", "inf in row 3"),
        (np.random.default_rng(0).standard_normal((ROWS, 3)), "regression of several values", "values such as 0.12573"),
        ((np.random.default_rng(0).random((ROWS, 5)) < 0.5).astype("f4"), "multi-label targets", "ones in row"),
    ],
)  # fmt: skip
def test_what_is_not_one_hot(tmp_path, y, what, received):
    dataset = stored(tmp_path, y)
    rule = f"y of {dataset.reference} must be class indices or one-hot, exactly one 1 a row; {NOT_YET.format(what)}"
    for text in (message(dataset.info), message(lambda: dataset.read(np.arange(ROWS)), DataError)):
        assert text.startswith(rule + " Received: ")
        assert received in text


@pytest.mark.parametrize(
    ("y", "rule", "received"),
    [
        (LABELS * 1.0, "y.astype('int64') makes them; ", "float64, such as 0.0 in row 0"),
        (LABELS[:, None].astype("f4"), "y.astype('int64') makes them; ", "float32, such as 0.0 in row 0"),
        (LABELS + np.where(LABELS == 3, 0.5, 0), "", "float64, such as 3.5 in row 3"),
        (np.where(LABELS == 2, np.nan, 0), "", "float64, such as nan in row 2"),
    ],
)
def test_floats_are_no_labels(tmp_path, y, rule, received):
    dataset = stored(tmp_path, y)
    yet = NOT_YET.format("regression")
    expected = f"y of {dataset.reference} must be class indices stored as integers; {rule}{yet} Received: {received}"
    assert message(dataset.info) == expected
    assert message(lambda: dataset.read(np.arange(ROWS)), DataError) == expected


@pytest.mark.parametrize("options", ["", ",classes=10"])
@pytest.mark.parametrize(
    ("value", "kind"), [(-1, "i1"), (-(2**63), "i8"), (2**63 + 1, "u8"), (2**64 - 1, "u8"), (2**32 + 1, "u8")]
)
def test_labels_out_of_range(tmp_path, value, kind, options):
    y = LABELS.astype(kind)
    y[1500] = value
    dataset = stored(tmp_path, y, options)
    for text in (message(dataset.info), message(lambda: dataset.read(np.arange(1400, 1600)), DataError)):
        assert text.startswith(f"y of {dataset.reference} must be labels of 0")
        assert text.endswith(f"Received: {value} in row 1500")


def test_labels_beyond_the_classes_given(tmp_path):
    dataset = stored(tmp_path, LABELS, ",classes=3")
    assert message(dataset.info).endswith("must be labels of 0..2 for 3 classes. Received: 3 in row 3")
    assert stored(tmp_path, LABELS, ",classes=1000").info().classes == 1000
    assert "2..1048576. Received: 0" in message(stored(tmp_path, LABELS, ",classes=0").info)


@pytest.mark.parametrize(
    ("y", "received"),
    [
        (np.arange(ROWS) * 7 % 1999, "1999 different labels in 2000 rows, the largest 1998 (stratbench does not"),
        (np.where(LABELS == 0, 255, 0), "2 different labels in 2000 rows, the largest 255"),
        (LABELS + 1990, "4 different labels in 2000 rows, the largest 1993"),
    ],
)
def test_classes_are_not_invented(tmp_path, y, received):
    dataset = stored(tmp_path, y)
    expected = f"classes of {dataset.reference} must be given, as in classes=10, unless y holds most of the labels"
    assert message(dataset.info).startswith(expected)
    assert f"Received: {received}" in message(dataset.info)
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
    assert dataset.info().dtype == x.dtype.name == np.dtype(kind).newbyteorder("=").name
    assert x.dtype.isnative
    assert np.array_equal(x, values)
