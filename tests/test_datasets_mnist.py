import os
import sys
import types
import zipfile
from fractions import Fraction
from pathlib import Path

import h5py
import make_mnist_12k
import numpy as np
import pytest
from dataset_helpers import message, write
from stratbench.datasets import base, mnist, mnist_12k
from stratbench.datasets.base import Array, Info, parse
from stratbench.datasets.split import split_rows
from stratbench.errors import DataError


def test_mnist_12k_is_real_and_small():
    file = Path(mnist_12k.__file__).with_name("mnist-12k.h5")
    assert file.stat().st_size <= 3_000_000
    dataset = parse("mnist-12k")
    info = dataset.info()
    assert info == Info(10_000, 2_000, 12_000, Array((28, 28, 1), "uint8"), classes=10, scale=Fraction(1, 255))
    x, y = dataset.read(np.arange(12_000))
    assert (x.dtype, x.shape, y.dtype) == (np.uint8, (12_000, 28, 28, 1), np.int32)
    # MNIST's shares of digits: 6742 ones and 5421 fives of 60 000.
    counts = np.bincount(y[:10_000])
    assert (len(counts), counts[1], counts[5]) == (10, 1124, 904)
    assert [len(part) for part in split_rows(info, "default").values()] == [9_000, 1_000, 2_000]
    assert len({image.tobytes() for image in x}) == 12_000
    with h5py.File(file) as stored:
        assert "by-sa/3.0" in stored.attrs["licence"]
        assert {"source", "changes"} <= set(stored.attrs)
        assert stored["x"].compression == "gzip"
    # The shipped file is also an example of the layout that hdf5 takes.
    assert parse(f"hdf5:{file}").info().classes == 10


def test_mnist_12k_that_was_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_12k, "_FILE", tmp_path / "mnist-12k.h5")
    mnist_12k._load_all.cache_clear()

    def fails():
        text = message(lambda: parse("mnist-12k").read(np.arange(2)), DataError)
        assert text.startswith("mnist-12k.h5 must be as it was installed.")

    fails()
    (tmp_path / "mnist-12k.h5").write_bytes(b"x" * 1000)
    fails()
    write(tmp_path / "mnist-12k.h5")
    fails()


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """No mnist.npz anywhere, and Keras's download replaced by a failure."""

    def load_data():
        raise Exception("URL fetch failure on https://...: None -- \n no network")

    fake = types.SimpleNamespace(datasets=types.SimpleNamespace(mnist=types.SimpleNamespace(load_data=load_data)))
    monkeypatch.setitem(sys.modules, "keras", fake)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.delenv("STRATBENCH_DATA", raising=False)
    mnist._load_all.cache_clear()
    yield fake.datasets.mnist
    mnist._load_all.cache_clear()


def fake_mnist() -> dict[str, np.ndarray]:
    images = {f"x_{part}": np.zeros((count, 28, 28), np.uint8) for part, count in (("train", 60_000), ("test", 10_000))}
    labels = {f"y_{part}": np.zeros(count, np.uint8) for part, count in (("train", 60_000), ("test", 10_000))}
    return images | labels


def test_mnist_looks_in_order(empty_home, tmp_path, monkeypatch):
    def load_file(path):
        found.append(path.relative_to(tmp_path).parent.as_posix())
        return np.zeros((70_000, 1)), np.zeros(70_000)

    found: list[str] = []
    monkeypatch.setattr(mnist, "_load_file", load_file)
    for folder in ("data", "keras/datasets", ".keras/datasets"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "mnist.npz").touch()
    settings = [
        {},
        {"KERAS_HOME": "keras"},
        {"STRATBENCH_DATA": "data"},
        {"STRATBENCH_DATA": "no file there"},
    ]
    for setting in settings:
        for name, folder in setting.items():
            monkeypatch.setenv(name, str(tmp_path / folder))
        mnist._load_all.cache_clear()
        parse("mnist").read(np.array([0]))
    assert found == [".keras/datasets", "keras/datasets", "data", "keras/datasets"]


def test_mnist_downloads_through_keras(empty_home):
    arrays = fake_mnist()
    arrays["y_test"][-1] = 8
    empty_home.load_data = lambda: tuple((arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    x, y = parse("mnist").read(np.array([69_999, 0]))
    assert x.shape == (2, 28, 28, 1)
    assert y.tolist() == [8, 0]


def test_mnist_without_file_or_network(empty_home):
    expected = Info(60_000, 10_000, 70_000, Array((28, 28, 1), "uint8"), classes=10, scale=Fraction(1, 255))
    assert parse("mnist").info() == expected
    text = message(lambda: parse("mnist").read(np.arange(2)))
    assert "Put mnist.npz in the folder that STRATBENCH_DATA names, or use mnist-12k." in text


def test_wrong_mnist_files(empty_home, tmp_path, monkeypatch):
    monkeypatch.setenv("STRATBENCH_DATA", str(tmp_path))
    path = tmp_path / "mnist.npz"

    def fails(reason):
        text = message(lambda: parse("mnist").read(np.arange(2)), DataError)
        assert text.startswith(f"mnist.npz must be Keras's MNIST file. Received: {str(path)!r} (")
        assert reason in text

    path.write_bytes(b"not a file of NumPy's")
    fails("pickle")
    path.write_bytes(b"")
    fails("No data")
    np.savez(path, x_train=np.zeros(3))
    fails("y_train")
    arrays = fake_mnist()
    np.savez(path, **arrays | {"x_test": arrays["x_test"][:, 1:]})
    fails("uint8[10000, 27, 28] instead of uint8[10000, 28, 28]")
    np.savez(path, **arrays | {"y_test": np.array([{}] * 10_000)})
    fails("pickle")
    np.savez_compressed(path, **arrays)
    os.truncate(path, path.stat().st_size // 2)
    fails("")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    fails("")
    # A header that nests so deep that Python's parser gives up, or claims more than any memory holds.
    for header in (b"(" * 9000, b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % 2**60):
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x_train.npy", array)
        fails("")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("variable", ["STRATBENCH_DATA", "KERAS_HOME"])
def test_what_is_no_mnist_file_is_never_opened(empty_home, tmp_path, monkeypatch, variable):
    folder = tmp_path / "data"
    monkeypatch.setenv(variable, str(folder))
    path = folder / ("mnist.npz" if variable == "STRATBENCH_DATA" else "datasets/mnist.npz")
    path.parent.mkdir(parents=True)

    def text():
        return message(lambda: parse("mnist").read(np.arange(2)), DataError)

    os.mkfifo(path)
    assert text() == f"mnist.npz must be a regular file. Received: {str(path)!r}"
    path.unlink()
    path.mkdir()
    assert text() == f"mnist.npz must be a regular file. Received: {str(path)!r}"
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert text() == f"mnist.npz must be a regular file. Received: {str(path)!r}"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert text() == f"mnist.npz must be a file. Received: {str(path)!r}, a link that leads nowhere"
    path.unlink()
    path.symlink_to(path)
    assert text().startswith("mnist.npz must be a file that can be read.")


def test_wrong_data_folders(empty_home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / ("a" * 300), "~no-such-user/data"):
        monkeypatch.setenv("STRATBENCH_DATA", str(folder))
        assert "mnist.npz must" in message(lambda: parse("mnist").read(np.arange(2)), DataError)


@pytest.fixture
def real_mnist(monkeypatch):
    folders = [
        os.environ.get("STRATBENCH_DATA"),
        Path(base.__file__).resolve().parents[2] / "shared" / "data",
    ]
    found = [Path(folder) / "mnist.npz" for folder in folders if folder and (Path(folder) / "mnist.npz").is_file()]
    if not found:
        pytest.skip("no mnist.npz in STRATBENCH_DATA or ../shared/data")
    monkeypatch.setenv("STRATBENCH_DATA", str(found[0].parent))
    mnist._load_all.cache_clear()
    yield found[0]
    mnist._load_all.cache_clear()


def test_real_mnist(real_mnist):
    x, y = parse("mnist").read(np.array([0, 59_999, 60_000, 69_999]))
    assert (x.dtype, x.shape) == (np.uint8, (4, 28, 28, 1))
    assert y.tolist() == [5, 8, 7, 6]


def test_mnist_12k_comes_from_mnist(real_mnist, tmp_path):
    shipped = Path(mnist_12k.__file__).with_name("mnist-12k.h5")
    made = tmp_path / "again.h5"
    make_mnist_12k.make(real_mnist, made)
    with h5py.File(shipped) as ours, h5py.File(made) as again:
        for name in ("x", "y", "mnist_row"):
            assert np.array_equal(ours[name][()], again[name][()])
        assert dict(ours.attrs) == dict(again.attrs)
        rows = ours["mnist_row"][()].astype(int)
    rows[10_000:] += 60_000
    assert len(np.unique(rows)) == 12_000
    x, y = parse("mnist").read(rows)
    own_x, own_y = parse("mnist-12k").read(np.arange(12_000))
    assert np.array_equal(x, own_x)
    assert np.array_equal(y, own_y)
