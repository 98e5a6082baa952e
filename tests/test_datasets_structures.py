"""Examples and targets of several arrays, sample weights, and targets that are no class labels."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import make_spec
from dataset_helpers import message, windows_of
from stratbench.datasets.base import Array, Info, described, parse
from stratbench.datasets.batches import Batches, sequential
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.structure import leaves, map_structure, named
from stratbench.errors import DataError, UsageError

ROWS = 200


def file(folder: Path, **changes: Any) -> Path:
    """Row i holds i in all of its arrays."""
    rows = np.arange(ROWS)
    arrays = {
        "x/ids": (rows[:, None] + [0, 2**24]).astype("uint32"),
        "x/more/wide": rows.repeat(6).reshape(ROWS, 2, 3).astype("float64"),
        "y/one": rows.astype("int16") - 5,
        "y/two": rows[:, None].repeat(4, axis=1).astype("float32"),
        "w": rows.astype("float32"),
    }
    with h5py.File(folder / "a.h5", "w") as stored:
        for name, values in (arrays | changes).items():
            stored[name] = values
    return folder / "a.h5"


def test_a_group_is_a_dictionary_of_arrays_as_they_are_stored(tmp_path: Path) -> None:
    dataset = parse(f"hdf5:{file(tmp_path)},sample_weight=w")
    info = dataset.info()
    assert info.x == {"ids": Array((2,), "uint32"), "more": {"wide": Array((2, 3), "float64")}}
    assert info.y == {"one": Array((), "int16"), "two": Array((4,), "float32")}
    assert (info.sample_weight, info.classes) == (Array((), "float32"), None)
    assert info.not_classes == "2 arrays"
    assert info.structure == (info.x, info.y, info.sample_weight)
    rows = np.random.default_rng(0).permutation(ROWS)[:77]
    found = dataset.read(rows)
    for (name, array), like in zip(named(found), leaves(info.structure), strict=True):
        assert (array.dtype, array.shape) == (like.dtype, (77, *like.shape)), name
    x, y, weight = found
    assert np.array_equal(x["ids"], rows[:, None] + [0, 2**24])
    assert np.array_equal(x["more"]["wide"][:, 1, 2], rows)
    assert np.array_equal(y["one"], rows - 5) and np.array_equal(y["two"][:, 3], rows)
    assert np.array_equal(weight, rows)


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("sharding", ["batch", "static"])
def test_shards_of_structures_are_the_same_batches(
    window: int | None, sharding: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = parse(f"hdf5:{file(tmp_path)},sample_weight=w")
    if window:
        windows_of(monkeypatch, window, 2 * 4 + 6 * 8)
    rows = np.arange(ROWS)
    settings: Any = {"global_batch": 20, "seed": 3, "sharding": sharding, "shards": 2}
    together = list(Batches(dataset, rows, count=2, **settings).epoch(1))
    apart = [list(Batches(dataset, rows, shard=shard, **settings).epoch(1)) for shard in range(2)]
    assert len(together) == 10
    for whole, *parts in zip(together, *apart, strict=True):
        assert str(whole) == str(map_structure(lambda *arrays: np.concatenate(arrays), *parts))
        numbers = whole[0]["ids"][:, 0]
        assert np.array_equal(whole[1]["one"], numbers.astype(int) - 5)
        assert np.array_equal(whole[2], numbers)
    seen = np.concatenate([whole[2] for whole in together])
    assert sorted(seen.tolist()) == list(range(ROWS)) and not np.array_equal(seen, np.sort(seen))


def test_evaluation_reads_structures_in_order(tmp_path: Path) -> None:
    dataset = parse(f"hdf5:{file(tmp_path)},sample_weight=w")
    found = list(sequential(dataset, np.arange(50, 75), 10))
    assert [len(weight) for _, _, weight in found] == [10, 10, 5]
    assert np.concatenate([weight for _, _, weight in found]).tolist() == list(range(50, 75))


def test_sets_of_a_file_have_the_same_structure(tmp_path: Path) -> None:
    rows = np.arange(30)
    test = {"t/x/ids": rows[:, None].astype("uint32").repeat(2, 1), "t/x/more/wide": np.zeros((30, 2, 3))}
    test |= {"t/y/one": rows.astype("int16"), "t/y/two": np.zeros((30, 4), "float32"), "t/w": np.ones(30, "float32")}
    text = f"hdf5:{file(tmp_path, **test)},sample_weight=w,test_x=t/x,test_y=t/y,test_sample_weight=t/w"
    info = parse(text).info()
    assert (info.train_examples, info.test_examples) == (ROWS, 30)
    assert parse(text).read(np.array([ROWS + 3]))[1]["one"].tolist() == [3]
    other = f"hdf5:{file(tmp_path, **test | {'t/y/two': np.zeros((30, 5), 'float32')})}" + text.partition(",")[1]
    dataset = parse(other + text.partition(",")[2])
    expected = (
        "must be of the type and shape of y, one int16 (), two float32 (4,). Received: one int16 (), two float32 (5,)"
    )
    assert expected in message(dataset.info)
    with pytest.raises(UsageError, match=r"must be given for each set\. Received: sample_weight alone"):
        parse(text.replace(",test_sample_weight=t/w", ""))
    with pytest.raises(UsageError, match="Received: test_sample_weight alone"):
        parse(text.replace(",sample_weight=w", ""))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("w", np.where(np.arange(ROWS) == 7, -1.0, 1), "sample weights must be 0 or more. Received: -1.0 in row 7"),
        (
            "w",
            np.where(np.arange(ROWS) == 7, np.nan, 1),
            "sample weights must be finite numbers. Received: nan in row 7",
        ),
        ("y/two", np.full((ROWS, 4), np.inf), "targets/two must be finite numbers. Received: inf in row 0"),
        (
            "x/more/wide",
            np.full((ROWS, 1), np.nan),
            "examples/more/wide must be finite numbers. Received: nan in row 0",
        ),
    ],
)
def test_numbers_that_can_not_be_trained_are_refused(name: str, values: Any, expected: str, tmp_path: Path) -> None:
    dataset = Hdf5(str(file(tmp_path, **{name: values})), sample_weight="w")
    dataset.info()
    text = message(lambda: list(Batches(dataset, np.arange(ROWS), global_batch=50, seed=0).epoch(0)), DataError)
    assert text == f"{expected} of {dataset.reference}"


def test_scale_is_for_one_array(tmp_path: Path) -> None:
    dataset = Hdf5(str(file(tmp_path)), scale=parse("mnist").scale)
    assert "must be left out for several arrays of examples. Received: 1/255" in message(dataset.info)


def test_a_structure_in_words() -> None:
    assert described(Array((2, 3), "uint8")) == "shape (2, 3) and type uint8"
    both = {"a": Array((), "int32"), "b": {"c": Array((4,), "float32")}}
    assert described(both) == "a of shape () and type int32; b/c of shape (4,) and type float32"
    with pytest.raises(UsageError, match=r"must have one array of examples\. Received: a of shape"):
        print(Info(None, None, 10, both).shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("x=x,y=three", "needs class labels. Received: hdf5:"),
        ("x=x,y=y,sample_weight=w", "can't be given for data with sample weights. Received: hdf5:"),
    ],
)
def test_class_weights_need_labels_and_no_sample_weights(options: str, message: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"], file["y"], file["w"] = np.zeros((200, 2)), np.arange(200) % 2, np.ones(200)
        file["three"] = np.random.default_rng(0).normal(size=(200, 3))
    with pytest.raises(UsageError) as caught:
        make_spec(dataset=f"hdf5:{tmp_path / 'data.h5'},{options}", class_weight="0=1")
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_file_may_be_without_targets(kind: str, tmp_path: Path) -> None:
    path, x = tmp_path / f"data.{kind}", np.arange(400.0).reshape(200, 2)
    if kind == "npz":
        np.savez(path, x=x, more=x[:50])
    else:
        with h5py.File(path, "w") as file:
            file["x"], file["more"] = x, x[:50]
    dataset = parse(f"{kind}:{path},y=none,test_x=more")
    assert dataset.info().y == () and dataset.info().test_examples == 50
    found, nothing = dataset.read(np.array([200, 3]))
    assert found.tolist() == [x[0].tolist(), x[3].tolist()] and nothing == ()
    for options, said in (
        ("y=none,sample_weight=more", "must be left out with y=none"),
        ("y=none,test_x=more,test_y=x", "test_y of .* must be left out with y=none. Received: 'x'"),
        ("y=none,test_y=none", "test_y of .* must be left out with y=none. Received: 'none'"),
    ):
        with pytest.raises(UsageError, match=said):
            parse(f"{kind}:{path},{options}").info()
