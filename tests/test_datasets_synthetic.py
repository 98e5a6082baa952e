import numpy as np
import pytest
from stratbench.datasets.base import Array, Info, parse
from stratbench.datasets.split import split_rows
from stratbench.datasets.synthetic import Synthetic


def test_synthetic_is_independent_of_how_rows_are_asked_for(monkeypatch):
    options = {"shape": (5, 6, 2), "classes": 4, "examples": 1050, "seed": 3}
    x, y = Synthetic(**options).read(np.arange(1050))
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (1050, 5, 6, 2), np.int32)
    assert set(y.tolist()) == {0, 1, 2, 3}
    monkeypatch.setattr("stratbench.datasets.synthetic._KEPT_BYTES", 0)
    rows = np.random.default_rng(0).permutation(1050)[:333]
    some_x, some_y = Synthetic(**options).read(rows)
    assert np.array_equal(some_x, x[rows])
    assert np.array_equal(some_y, y[rows])
    assert Synthetic(**options).read(rows[:0])[0].shape == (0, 5, 6, 2)
    assert not np.array_equal(Synthetic(**options | {"seed": 4}).read(rows)[0], some_x)


def test_synthetic_reads_are_new_arrays():
    dataset, rows = Synthetic(examples=100), np.arange(100)
    dataset.read(rows)[0][:] = 0
    assert dataset.read(rows)[0].any()


@pytest.mark.parametrize("shape", [(28, 28, 1), (16,), (3, 3, 3)])
def test_synthetic_can_be_learnt(shape):
    dataset = Synthetic(shape, classes=5, examples=4000)
    parts = split_rows(dataset.info(), "default")
    (x, y), (test_x, test_y) = (dataset.read(parts[name]) for name in ("train", "test"))
    assert np.isfinite(x).all()
    means = np.stack([x[y == label].mean(axis=0).ravel() for label in range(5)])
    distances = ((test_x.reshape(len(test_x), 1, -1) - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == test_y).mean() > 0.9


def test_synthetic_info_is_free_of_work():
    dataset = parse("synthetic:shape=224x224x3,classes=100,examples=10000000")
    assert dataset.info() == Info(None, None, 10_000_000, Array((224, 224, 3), "float32"), classes=100)
    assert Synthetic().info().block_rows == 120
