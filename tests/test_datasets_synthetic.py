import numpy as np
import pytest
from stratbench.datasets.base import Array, Info, parse
from stratbench.datasets.split import split_rows
from stratbench.datasets.synthetic import Form, Synthetic, Values


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


FORM = Form(
    {"ids": Values((5,), "uint16", below=30), "picture": Values((4, 4, 2))},
    (
        Values((3,), "int32", "label", 4),
        Values((2,)),
        Values((2, 3), "float32", "one-hot"),
        Values((3,), "float32", "binary"),
    ),
)


def fitted(tmp_path, form, **options):
    path = tmp_path / "form.json"
    path.write_text(form.to_json())
    return Synthetic(**options, file=str(path))


def test_a_form_is_read_as_it_was_written():
    assert Form.from_json(FORM.to_json()) == FORM


def test_examples_of_a_form_have_its_shapes_and_types(tmp_path, monkeypatch):
    dataset = fitted(tmp_path, FORM, examples=500)
    x, y = dataset.read(np.arange(500))
    for each, array in zip(FORM.leaves, [*x.values(), *y], strict=True):
        assert (array.shape, array.dtype.name) == ((500, *each.shape), each.dtype)
    assert x["ids"].max() < 30 and set(np.unique(y[0])) == {0, 1, 2, 3}
    assert (y[2].sum(axis=2) == 1).all() and set(np.unique(y[3])) == {0, 1}
    monkeypatch.setattr("stratbench.datasets.synthetic._KEPT_BYTES", 0)
    rows = np.random.default_rng(0).permutation(500)[:77]
    some_x, some_y = fitted(tmp_path, FORM, examples=500).read(rows)
    for one, other in zip([*some_x.values(), *some_y], [*x.values(), *y], strict=True):
        assert np.array_equal(one, other[rows])


def test_targets_of_a_form_can_be_learnt_from_either_input(tmp_path):
    (x, y) = fitted(tmp_path, FORM, examples=4000).read(np.arange(4000))
    labels = y[0][:, 0]
    means = np.stack([x["picture"][labels == label].mean(axis=0).ravel() for label in range(4)])
    distances = ((x["picture"].reshape(4000, 1, -1) - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == labels).mean() > 0.7
    votes = np.stack([(x["ids"] % 4 == label).sum(axis=1) for label in range(4)], axis=1)
    assert (votes.argmax(axis=1) == labels).mean() > 0.7
    for label in range(4):
        assert np.ptp(y[1][labels == label], axis=0).max() < 1.0


def test_the_targets_of_a_language_model_are_the_next_tokens(tmp_path):
    form = Form(Values((6,), "int32", below=50), Values((6,), "int32", "next", 50))
    x, y = fitted(tmp_path, form, examples=1000).read(np.arange(1000))
    assert np.array_equal(x[:, 1:], y[:, :-1])
    assert 0.7 < ((x * 31 + 7) % 50 == y).mean() < 0.85
