import fcntl
import os
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_helpers import message, write
from stratbench.datasets.base import Array, Dataset, Info, parse
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.split import split_rows
from stratbench.errors import DataError

ROWS = np.zeros((9, 2))


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (7, 2, 2)}, {"chunks": (300, 1, 1), "compression": "gzip"}, {"maxshape": (None, 2, 2)}],
)
def test_hdf5_reads_any_rows_in_their_order(tmp_path, options):
    dataset = Hdf5(str(write(tmp_path / "a.h5", **options)))
    for rows in ([], [5], [299, 0, 150, 151, 152, 3, 2, 1], [4, 4, 4], range(300)):
        rows = np.array(rows, np.int64)
        x, y = dataset.read(rows)
        assert (x.dtype, x.shape, y.dtype) == (np.float32, (len(rows), 2, 2), np.int32)
        assert np.array_equal(x[:, 1, 1], rows)
        assert np.array_equal(y, rows % 5)


def test_hdf5_info(tmp_path):
    info = Hdf5(str(write(tmp_path / "a.h5", chunks=(2, 2, 2)))).info()
    assert info == Info(None, None, 300, Array((2, 2), "float32"), classes=5, block_rows=2, labels=Array((), "int64"))
    assert parse(f"hdf5:{tmp_path / 'a.h5'},scale=1/255").info().scale == Fraction(1, 255)
    assert Hdf5(str(write(tmp_path / "b.h5", chunks=(250, 2, 2)))).info().block_rows == 3
    assert Hdf5(str(write(tmp_path / "c.h5"))).info().block_rows == 3
    assert Hdf5(str(write(tmp_path / "d.h5", x=np.zeros((20, 3))))).info().block_rows == 1
    assert Hdf5(str(tmp_path / "a.h5"), classes=9).info().classes == 9
    assert Hdf5.sharding == "batch"
    large = write(tmp_path / "e.h5", x=np.zeros((2000, 2048), np.uint8), y=np.zeros(2000, int) + 1)
    assert Hdf5(str(large)).info().block_rows == 20


def test_hdf5_names_types_and_label_forms(tmp_path, monkeypatch):
    labels = np.arange(30) % 4
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/images"] = np.arange(30, dtype=">u2").reshape(30, 1)
        file["labels"] = labels.astype(np.uint8)[:, None]
        file["one-hot"] = np.eye(6)[labels]
    monkeypatch.setenv("HOME", str(tmp_path))
    for names, classes in (("y=labels", 4), ("y=one-hot", 6)):
        dataset = parse(f"hdf5:~/a.h5,x=group/images,{names}")
        assert dataset.info().classes == classes
        x, y = dataset.read(np.arange(30))
        assert x.dtype == np.dtype("=u2")
        assert x.ravel().tolist() == list(range(30))
        assert np.array_equal(y, labels)
    monkeypatch.chdir(tmp_path)
    assert parse("hdf5:a.h5,x=group/images,y=labels").info().examples == 30


def test_hdf5_sets_of_its_own(tmp_path):
    path = tmp_path / "a.h5"
    sizes = {"x": 400, "v/x": 30, "t": 50}
    first, starts = 0, {}
    with h5py.File(path, "w") as file:
        for name, size in sizes.items():
            rows = np.arange(first, first + size)
            starts[name], first = first, first + size
            file.create_dataset(name, data=rows.repeat(6).reshape(size, 2, 3).astype(np.int32), chunks=(7, 2, 3))
            labels = rows % 4 + (name == "t")
            file[f"{name}-labels"] = np.eye(5)[labels] if name == "v/x" else labels[:, None]
    text = f"hdf5:{path},y=x-labels"
    validation, test = ",validation_x=v/x,validation_y=v/x-labels", ",test_x=t,test_y=t-labels"

    dataset = parse(text + test + validation)
    assert parse(dataset.reference) == dataset
    info = dataset.info()
    assert (info.train_examples, info.validation_examples, info.test_examples) == (400, 30, 50)
    # The width of one set's one-hot labels, and the largest label of another.
    assert (info.examples, info.shape, info.classes, info.x.dtype) == (480, (2, 3), 5, "int32")
    rows = np.random.default_rng(0).permutation(480)
    x, y = dataset.read(rows)
    assert np.array_equal(x[:, 1, 2], rows)
    assert np.array_equal(y, rows % 4 + (rows >= 430))
    parts = split_rows(info, "default")
    assert sorted(parts["train"]) == list(range(400))
    assert parts["validation"].tolist() == list(range(400, 430))
    assert parts["test"].tolist() == list(range(430, 480))
    assert [len(part) for part in split_rows(info, "50/25/25").values()] == [240, 120, 120]

    info = parse(text + test).info()
    parts = split_rows(info, "default")
    assert (info.train_examples, info.validation_examples, info.test_examples) == (400, None, 50)
    assert sorted([*parts["train"], *parts["validation"]]) == list(range(400))
    assert (len(parts["validation"]), parts["test"].tolist()) == (40, list(range(400, 450)))

    info = parse(text + validation).info()
    parts = split_rows(info, "default")
    assert (info.train_examples, info.validation_examples, info.test_examples) == (400, 30, None)
    assert sorted([*parts["train"], *parts["test"]]) == list(range(400))
    assert (len(parts["test"]), parts["validation"].tolist()) == (40, list(range(400, 430)))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (
            np.zeros((4, 3)),
            [0] * 4,
            "test_x of {it} must be of the type and shape of x, float64 (2,). Received: float64",
        ),
        (
            np.zeros((4, 2), "f4"),
            [0] * 4,
            "test_x of {it} must be of the type and shape of x, float64 (2,). Received: f",
        ),
        (np.zeros((4, 2)), [0] * 3, "test_y of {it} must be of as many rows as test_x, 4. Received: 3"),
        (
            np.zeros((4, 2)),
            [[1, 0, 1]] * 4,
            "test_y of {it} must be of the type and shape of y, int64 (). Received: int",
        ),
        (
            np.zeros((4, 2)),
            np.eye(4),
            "test_y of {it} must be of the type and shape of y, int64 (). Received: float64 (4,)",
        ),
        (None, [0] * 9, "test_x of {it} must be other examples than x. Received: /a for both"),
    ],
)
def test_wrong_hdf5_sets(tmp_path, x, y, expected):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"], file["b"] = ROWS, np.arange(9) % 5, y
        file["a"] = file["x"] if x is None else x
    dataset = parse(f"hdf5:{path},test_x=a,test_y=b")
    assert message(dataset.info).startswith(expected.format(it=dataset.reference))


def broken(tmp_path: Path, **arrays) -> Dataset:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return Hdf5(str(path))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": ROWS, "g/y": [0]}, "x must be one of the datasets in {path}: g/y, images. Received: 'x'"),
        ({}, "x must be one of the datasets in {path}: it has none. Received: 'x'"),
        (
            {"x/y": ROWS, "y": [0]},
            "y of hdf5:{path} must be of as many rows as x/y, 9. Received: 1",
        ),
        ({"x": ROWS}, "y must be one of the datasets in {path}: x. Received: 'y'"),
        (
            {"x": [0], "y": np.array([b"ab"])},
            "y of hdf5:{path} must be integers, floats or booleans of at most 64 bits. Received: text, |S2",
        ),
        (
            {"x": ROWS + 1j, "y": [0] * 9},
            "x of hdf5:{path} must be integers, floats or booleans of at most 64 bits. Received: complex numbers",
        ),
        ({"x": h5py.Empty("f4"), "y": [0]}, "x of hdf5:{path} must be of shape (examples, ...)"),
        ({"x": ROWS[:0], "y": ROWS[:0, 0]}, "x of hdf5:{path} must be of a shape without zeros"),
        ({"x": ROWS, "y": h5py.Empty("i4")}, "y of hdf5:{path} must be of shape (examples, ...). Received: no values"),
        (
            {"x": ROWS, "y": np.arange(8)},
            "y of hdf5:{path} must be of as many rows as x, 9. Received: 8",
        ),
    ],
)
def test_wrong_hdf5_layouts(tmp_path, arrays, expected):
    dataset = broken(tmp_path, **arrays)
    assert message(dataset.info).startswith(expected.format(path=dataset.path))


def test_wrong_hdf5_classes(tmp_path):
    path = broken(tmp_path, x=ROWS, y=np.eye(9)).path
    text = message(parse(f"hdf5:{path},classes=3").info)
    assert text == f"y of hdf5:{path},classes=3 must be one-hot for 3 classes. Received: width 9"
    text = message(parse(f"hdf5:{write(tmp_path / 'b.h5')},classes=1").info)
    assert text.endswith("must be 2..1048576. Received: 1")


def test_unreadable_hdf5_files(tmp_path):
    missing = tmp_path / "missing.h5"
    expected = f"data set file must be an existing file. Received: '{missing}'"
    assert message(Hdf5(str(missing)).info) == expected
    assert message(lambda: Hdf5(str(missing)).read(np.arange(3)), DataError) == expected
    assert message(Hdf5(str(tmp_path)).info) == f"data set file must be a regular file. Received: '{tmp_path}'"
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    assert message(Hdf5(str(text)).info).startswith(f"data set file must be readable HDF5. Received: '{text}' (")
    path = write(tmp_path / "cut.h5", x=np.zeros((3000, 8)))
    os.truncate(path, path.stat().st_size // 2)
    assert message(Hdf5(str(path)).info).startswith("data set file must be readable HDF5.")


def test_hdf5_that_breaks_while_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3000, 8), np.uint8)
    path = write(tmp_path / "a.h5", x=values, y=np.arange(3000) % 3, chunks=(500, 8), compression="gzip")
    dataset = Hdf5(str(path))
    dataset.info()
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(2)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * 100)
    assert len(dataset.read(np.arange(900))[0]) == 900
    text = message(lambda: dataset.read(np.arange(1200)), DataError)
    assert text.startswith("data set file must be readable HDF5.")


def test_hdf5_is_not_locked_nor_left_open(tmp_path):
    path = write(tmp_path / "a.h5")
    dataset = Hdf5(str(path))
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert dataset.info().examples == 300
        dataset.read(np.arange(10))
    with h5py.File(path, "r+", locking=True) as file:
        file.attrs["writable"] = True
