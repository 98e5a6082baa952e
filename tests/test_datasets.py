import fcntl
import os
import subprocess
import sys
import tracemalloc
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
from stratbench.datasets import _blocks, _make_mnist_12k, base, batches, mnist, mnist_12k
from stratbench.datasets.base import Dataset, Info, available, describe, parse
from stratbench.datasets.batches import Batches, sequential
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.split import PARTS, parse_split, split_rows
from stratbench.datasets.synthetic import Synthetic
from stratbench.errors import DataError, UsageError


@dataclass(frozen=True)
class Table(Dataset):
    """Row i is [i, i] with label i % 3; remembers which rows each read asked for."""

    name: ClassVar[str] = "table"
    summary: ClassVar[str] = "for tests"
    licence: ClassVar[str] = "none"

    examples: int = 100
    reads: list[np.ndarray] = field(default_factory=list, compare=False)

    def info(self) -> Info:
        return Info(None, None, self.examples, (2,), 3)

    def read(self, rows):
        self.reads.append(rows)
        return np.stack([rows, rows], axis=1).astype(np.int16), rows % 3


def write(path: Path, *, x=None, y=None, **options) -> Path:
    """Write an HDF5 file whose row i holds i in every value."""
    x = np.arange(300, dtype=np.float32).repeat(4).reshape(300, 2, 2) if x is None else x
    y = np.arange(len(x)) % 5 if y is None else y
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, **options)
        file.create_dataset("y", data=y)
    return path


def message(call, error=UsageError) -> str:
    """Return the text of the error that ``call`` raises; it must be one line."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "Received: " in text
    return text


def rows_of(source) -> list[list[int]]:
    """Row numbers of each batch of a data set whose rows hold their numbers."""
    return [x.reshape(len(x), -1)[:, 0].astype(int).tolist() for x, _ in source]


def flat(steps) -> list[int]:
    return [row for step in steps for row in step]


def windows_of(monkeypatch, rows: int, example_bytes: int = 4) -> None:
    monkeypatch.setattr(batches, "WINDOW_BYTES", rows * example_bytes)


# References


def test_modules_are_discovered():
    assert list(available()) == ["hdf5", "mnist", "mnist-12k", "synthetic"]
    folder = Path(base.__file__).parent
    assert not (folder / "__init__.py").exists()
    for cls in available().values():
        assert cls.summary
        assert cls.licence


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("synthetic", Synthetic()),
        ("synthetic:seed=3", Synthetic(seed=3)),
        ("synthetic,seed=3", Synthetic(seed=3)),
        (
            "synthetic:shape=32x32x3,classes=4,examples=99,seed=1",
            Synthetic((32, 32, 3), classes=4, examples=99, seed=1),
        ),
        ("hdf5:a.h5", Hdf5("a.h5")),
        ("hdf5:path=a.h5", Hdf5("a.h5")),
        ("hdf5:~/a:b,c=d.h5", None),
        ("hdf5:~/a,b 1=2.h5,y=labels", Hdf5("~/a,b 1=2.h5", y="labels")),
        ("hdf5:a=b.h5,x=group/images,classes=7", Hdf5("a=b.h5", x="group/images", classes=7)),
    ],
)
def test_references(reference, expected):
    if expected is None:
        assert "'c'" in message(lambda: parse(reference))
        return
    assert parse(reference) == expected
    assert parse(expected.reference) == expected


def test_shortest_reference():
    assert parse("mnist").reference == "mnist"
    assert parse("synthetic,seed=0").reference == "synthetic"
    assert parse("synthetic,classes=3,shape=4x5").reference == "synthetic:shape=4x5,classes=3"
    assert parse("hdf5:a.h5,y=b,x=x").reference == "hdf5:a.h5,y=b"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (
            "mnits",
            "data set must be one of hdf5, mnist, mnist-12k, synthetic. Received: 'mnits'. Did you mean 'mnist'?",
        ),
        ("", "data set must be one of hdf5, mnist, mnist-12k, synthetic. Received: ''"),
        ("cifar10", "data set must be one of hdf5, mnist, mnist-12k, synthetic. Received: 'cifar10'"),
        (
            "synthetic:shpe=3",
            "option of synthetic must be one of shape, classes, examples, seed. "
            "Received: 'shpe'. Did you mean 'shape'?",
        ),
        ("synthetic:classes=ten", "classes of synthetic must be an integer. Received: 'ten'"),
        ("synthetic:shape=28xx1", "shape of synthetic must be a shape such as 28x28x1. Received: '28xx1'"),
        (
            "synthetic:seed=1,seed=2",
            "seed of synthetic must be given once. Received: 'synthetic:seed=1,seed=2'",
        ),
        ("synthetic:seed=", "options of data set synthetic must be key=value. Received: 'seed='"),
        ("synthetic:28x28", "options of data set synthetic must be key=value. Received: '28x28'"),
        ("mnist,seed=1", "data set mnist must be given without options. Received: 'mnist,seed=1'"),
        ("mnist:", "data set mnist must be given without options. Received: 'mnist:'"),
        ("hdf5", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5'"),
        ("hdf5:", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5:'"),
        ("hdf5,x=a", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5,x=a'"),
        ("hdf5:a.h5,z=1", "option of hdf5 must be one of path, x, y, classes. Received: 'z'"),
        ("hdf5:a.h5,classes=many", "classes of hdf5 must be an integer. Received: 'many'"),
        (
            "synthetic:shape=0x2",
            "values in one example of synthetic must be 1..16777216. Received: 0",
        ),
        ("synthetic:shape=-2x-2", "values in one example of synthetic must be 1..16777216. Received: 0"),
        ("synthetic:classes=1", "classes of synthetic must be 2..85598. Received: 1"),
        ("synthetic:examples=0", "examples of synthetic must be 1..100000000. Received: 0"),
        ("synthetic:seed=-1", "seed of synthetic must be 0..9223372036854775807. Received: -1"),
    ],
)
def test_wrong_references(reference, expected):
    assert message(lambda: parse(reference)) == expected


def test_describe():
    shown = describe(Synthetic)
    assert shown["name"] == "synthetic"
    assert shown["options"][0] == {
        "name": "shape",
        "type": "a shape such as 28x28x1",
        "default": "28x28x1",
        "help": "shape of one example",
    }
    defaults = {option["name"]: (option["type"], option["default"]) for option in describe(Hdf5)["options"]}
    assert defaults == {
        "path": ("text", "required"),
        "x": ("text", "x"),
        "y": ("text", "y"),
        "classes": ("an integer", None),
    }
    assert describe(mnist.Mnist)["options"] == []


def test_import_is_cheap():
    code = (
        "import sys; from stratbench.datasets import base, batches, split; base.parse('mnist').info();"
        "print([m for m in ('tensorflow', 'keras', 'h5py', 'stratbench.harness', 'stratbench.strategies',"
        "'stratbench.results') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Splits


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("default", "default"),
        ("60/20/20", "60/20/20"),
        ("0.6/0.2/0.2", "60/20/20"),
        ("60.0/20/2e1", "60/20/20"),
        ("33.3/33.3/33.4", "33.3/33.3/33.4"),
        ("0.125/0.125/0.75", "12.5/12.5/75"),
    ],
)
def test_split_normal_form(text, normal):
    assert parse_split(text) == normal
    assert parse_split(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60/40",
        "60/20/30",
        "60/20/20/0",
        "80/20/0",
        "120/-40/20",
        "a/b/c",
        "nan/50/50",
        "inf/-inf/1",
        "Default",
    ],
)
def test_wrong_splits(text):
    assert message(lambda: parse_split(text)).endswith(f"such as 60/20/20. Received: {text!r}")


def sizes(parts) -> tuple[int, ...]:
    return tuple(len(parts[name]) for name in PARTS)


def assert_partition(parts, examples):
    assert all(rows.dtype == np.int64 for rows in parts.values())
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(examples))


def test_default_split_keeps_own_test_rows():
    parts = split_rows(Info(60_000, 10_000, 70_000, (1,), 10), "default")
    assert sizes(parts) == (54_000, 6_000, 10_000)
    assert_partition(parts, 70_000)
    assert np.array_equal(parts["test"], np.arange(60_000, 70_000))
    # Drawn from all over the training rows.
    assert parts["validation"].min() < 1000
    assert parts["validation"].max() > 59_000


def test_default_split_without_own_test_rows():
    parts = split_rows(Info(None, None, 1000, (1,), 10), "default")
    assert sizes(parts) == (800, 100, 100)
    assert_partition(parts, 1000)


def test_percentages_are_exact_and_of_all_examples():
    info = Info(60_000, 10_000, 70_000, (1,), 10)
    parts = split_rows(info, "60/20/20")
    assert sizes(parts) == (42_000, 14_000, 14_000)
    assert_partition(parts, 70_000)
    again = split_rows(info, "0.6/0.2/0.2")
    assert all(np.array_equal(parts[name], again[name]) for name in PARTS)
    # The same share of test rows means the same test rows.
    assert np.array_equal(parts["test"], split_rows(info, "70/10/20")["test"])


def test_split_goes_by_whole_blocks():
    block = 32
    parts = split_rows(Info(None, None, 10_010, (1,), 10, block), "60/20/20")
    assert_partition(parts, 10_010)
    assert abs(len(parts["train"]) - 6006) <= block
    owners = [set((rows // block).tolist()) for rows in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    train = parts["train"]
    jumps = np.flatnonzero(np.diff(train) != 1) + 1
    assert set((train[jumps] % block).tolist()) == {0}
    assert not np.array_equal(train, np.sort(train))


@pytest.mark.parametrize(
    "info", [Info(None, None, 5, (1,), 2), Info(4, 1, 5, (1,), 2), Info(None, None, 90, (1,), 2, 30)]
)
def test_empty_parts(info):
    text = message(lambda: split_rows(info, "default"))
    assert "must leave at least one block of rows to each of train, validation, test" in text


# Batches


@pytest.mark.parametrize("window_rows", [1000, 24])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_make_up_the_same_global_batch(monkeypatch, shards, window_rows):
    windows_of(monkeypatch, window_rows)
    rows = np.random.default_rng(0).permutation(100)[:80]

    def epoch(shards, shard):
        return list(Batches(Table(), rows, global_batch=12, seed=5, shards=shards, shard=shard).epoch(3))

    whole = epoch(1, 0)
    assert len(whole) == 80 // 12
    for step, parts in enumerate(zip(*[epoch(shards, shard) for shard in range(shards)], strict=True)):
        for side in (0, 1):
            together = np.concatenate([part[side] for part in parts])
            assert together.dtype == whole[step][side].dtype
            assert together.tobytes() == whole[step][side].tobytes()


def test_one_window_is_the_seeded_permutation_and_read_once():
    table, rows = Table(), np.arange(100)[::-1].copy()
    source = Batches(table, rows, global_batch=30, seed=7)
    assert source.steps_per_epoch == 3
    source.load()
    loaded = len(table.reads)
    for number in (0, 1):
        expected = rows[np.random.default_rng([7, number]).permutation(100)][:90].reshape(3, 30)
        assert rows_of(source.epoch(number)) == expected.tolist()
    assert len(table.reads) == loaded
    assert rows_of(source.epoch(0)) != rows_of(source.epoch(1))


def test_batches_keep_the_stored_type_and_are_copies():
    source = Batches(Table(), np.arange(100), global_batch=10, seed=0)
    x, y = next(source.epoch(0))
    assert (x.dtype, x.shape, y.dtype, y.shape) == (np.int16, (10, 2), np.int32, (10,))
    assert np.array_equal(y, x[:, 0] % 3)
    before = x.copy()
    x[:] = -1
    assert np.array_equal(next(source.epoch(0))[0], before)


@pytest.mark.parametrize("window_rows", [1000, 16])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_static_shards_are_disjoint_and_cover(monkeypatch, shards, window_rows):
    windows_of(monkeypatch, window_rows)
    rows = np.random.default_rng(0).permutation(120)[:110]
    owned = len(rows) // shards
    for shard in range(shards):
        source = Batches(Table(120), rows, global_batch=6, seed=1, shards=shards, shard=shard, sharding="static")
        assert source.steps_per_epoch == 110 // 6
        seen: set[int] = set()
        for number in range(30):
            steps = rows_of(source.epoch(number))
            assert [len(step) for step in steps] == [6 // shards] * (110 // 6)
            seen.update(row for step in steps for row in step)
        assert seen == set(rows[shard * owned : (shard + 1) * owned].tolist())


def test_static_shards_have_permutations_of_their_own():
    rows = np.arange(80)
    first, second = (
        rows_of(Batches(Table(), rows, global_batch=8, seed=1, shards=2, shard=shard, sharding="static").epoch(0))
        for shard in (0, 1)
    )
    assert first != [[row - 40 for row in step] for step in second]
    assert flat(first) == np.random.default_rng([1, 0, 0]).permutation(40).tolist()


def test_windows_give_each_row_at_most_once(monkeypatch):
    windows_of(monkeypatch, 35)
    table, rows = Table(), np.random.default_rng(0).permutation(100)
    source = Batches(table, rows, global_batch=10, seed=2)
    source.load()
    assert source.steps_per_epoch == 10
    orders = []
    for number in range(3):
        table.reads.clear()
        steps = rows_of(source.epoch(number))
        assert sorted(flat(steps)) == list(range(100))
        # 30 rows fit, as whole batches, so that there are four windows.
        windows = {frozenset(window.tolist()) for window in np.split(rows, [30, 50, 80])}
        assert {frozenset(read.tolist()) for read in table.reads} == windows
        orders.append(steps)
    assert orders[0] != orders[1] != orders[2]
    assert rows_of(Batches(Table(), rows, global_batch=10, seed=2).epoch(1)) == orders[1]
    assert rows_of(Batches(Table(), rows, global_batch=10, seed=3).epoch(1)) != orders[1]


def test_windows_drop_only_the_last_incomplete_batch(monkeypatch):
    windows_of(monkeypatch, 35)
    source = Batches(Table(), np.arange(97), global_batch=10, seed=2, shards=2, shard=1)
    steps = rows_of(source.epoch(0))
    assert len(steps) == source.steps_per_epoch == 9
    assert len(set(flat(steps))) == 45
    # None is left out in every epoch.
    whole = Batches(Table(), np.arange(97), global_batch=10, seed=2)
    assert len(set(flat(step for number in range(50) for step in rows_of(whole.epoch(number))))) == 97


def test_a_process_reads_only_its_slices_of_a_window(monkeypatch):
    windows_of(monkeypatch, 40)
    table = Table()
    rows_of(Batches(table, np.arange(100), global_batch=20, seed=0, shards=2, shard=1).epoch(0))
    assert sorted(map(len, table.reads[1:])) == [10, 20, 20]


def test_batch_larger_than_the_window(monkeypatch):
    windows_of(monkeypatch, 1)
    assert rows_of(Batches(Table(), np.arange(7), global_batch=3, seed=0).epoch(0))
    assert rows_of(sequential(Table(), np.arange(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("size", "shards", "expected"),
    [
        (101, 1, "global batch must be at most the 100 training examples. Received: 101"),
        (0, 1, "global batch must be a multiple of its 1 shards. Received: 0"),
        (10, 3, "global batch must be a multiple of its 3 shards. Received: 10"),
    ],
)
def test_wrong_global_batches(size, shards, expected):
    assert message(lambda: Batches(Table(), np.arange(100), global_batch=size, seed=0, shards=shards)) == expected


@pytest.mark.parametrize("window_rows", [1000, 35])
def test_sequential_gives_all_rows_in_order(monkeypatch, window_rows):
    windows_of(monkeypatch, window_rows)
    table, rows = Table(), np.random.default_rng(0).permutation(100)[:93]
    steps = rows_of(sequential(table, rows, 10))
    assert [len(step) for step in steps] == [10] * 9 + [3]
    assert flat(steps) == rows.tolist()
    assert max(map(len, table.reads)) == (93 if window_rows == 1000 else 30)


@pytest.mark.parametrize("window_bytes", [2**28, 16 * 50])
def test_wrong_content_names_the_row(tmp_path, monkeypatch, window_bytes):
    monkeypatch.setattr(batches, "WINDOW_BYTES", window_bytes)
    x = np.zeros((300, 2, 2), np.float32)
    y = np.arange(300) % 10
    y[123] = 11
    path = write(tmp_path / "labels.h5", x=x, y=y)
    dataset = parse(f"hdf5:{path},classes=10")
    rows = np.random.default_rng(0).permutation(300)
    expected = f"labels must be 0..9 for 10 classes. Received: 11 in row 123 of {dataset.reference}"
    assert message(lambda: list(Batches(dataset, rows, global_batch=10, seed=0).epoch(0)), DataError) == expected
    assert message(lambda: list(sequential(dataset, rows, 7)), DataError) == expected

    for value, text in ((np.nan, "nan"), (-np.inf, "-inf")):
        x[77, 1, 0] = value
        dataset = parse(f"hdf5:{write(tmp_path / f'{text}.h5', x=x)}")
        expected = f"examples must be finite numbers. Received: {text} in row 77 of {dataset.reference}"
        assert message(lambda d=dataset: list(sequential(d, rows, 7)), DataError) == expected


def test_never_more_than_a_window_in_memory(tmp_path, monkeypatch):
    window = 4 * 2**20
    monkeypatch.setattr(batches, "WINDOW_BYTES", window)
    x = np.random.default_rng(0).standard_normal((8000, 32, 16), np.float32)
    path = write(tmp_path / "large.h5", x=x, chunks=(100, 32, 16))
    assert x.nbytes > 3 * window
    dataset = Hdf5(str(path))
    rows = split_rows(dataset.info(), "90/5/5")["train"]
    batch_bytes = 100 * x[0].nbytes
    del x
    source = Batches(dataset, rows, global_batch=100, seed=0)

    def peak(run) -> int:
        tracemalloc.start()
        try:
            run()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def consume(batches):
        for x, _ in batches:  # noqa: B007, the last batch is held as a training loop does
            pass

    # Beside the window: the batch that is held, the one that is made, and h5py's pieces of 1 MiB.
    allowed = window + 2 * batch_bytes + 3 * 2**20
    assert allowed < 2 * window
    assert peak(lambda: consume(source.epoch(0))) < allowed
    assert peak(lambda: consume(sequential(dataset, rows, 100))) < allowed


# HDF5


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (7, 2, 2)}, {"chunks": (300, 1, 1), "compression": "gzip"}, {"maxshape": (None, 2, 2)}],
)
def test_hdf5_reads_any_rows_in_their_order(tmp_path, options):
    dataset = Hdf5(str(write(tmp_path / "a.h5", **options)))
    for rows in ([], [5], [299, 0, 150, 151, 152, 3, 2, 1], [4, 4, 4], range(300)):
        rows = np.array(rows, np.int64)
        x, y = dataset.read(rows)
        assert (x.dtype, x.shape, y.dtype) == (np.float32, (len(rows), 2, 2), np.int64)
        assert np.array_equal(x[:, 1, 1], rows)
        assert np.array_equal(y, rows % 5)


def test_hdf5_info(tmp_path):
    info = Hdf5(str(write(tmp_path / "a.h5", chunks=(2, 2, 2)))).info()
    assert info == Info(None, None, 300, (2, 2), 5, 2)
    assert Hdf5(str(write(tmp_path / "b.h5", chunks=(250, 2, 2)))).info().block_rows == 3
    assert Hdf5(str(write(tmp_path / "c.h5"))).info().block_rows == 3
    assert Hdf5(str(write(tmp_path / "d.h5", x=np.zeros((20, 3))))).info().block_rows == 1
    assert Hdf5(str(tmp_path / "a.h5"), classes=9).info().classes == 9
    assert Hdf5.sharding == "static"
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


def broken(tmp_path: Path, **arrays) -> Dataset:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return Hdf5(str(path))


ROWS = np.zeros((9, 2))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": ROWS, "g/y": [0]}, "x must be one of the datasets in {path}: g/y, images. Received: 'x'"),
        ({}, "x must be one of the datasets in {path}: it has none. Received: 'x'"),
        ({"x/y": ROWS, "y": [0]}, "x must be one of the datasets in {path}: x/y, y. Received: 'x'"),
        ({"x": ROWS}, "y must be one of the datasets in {path}: x. Received: 'y'"),
        (
            {"x": np.array([b"ab"]), "y": [0]},
            "x of hdf5:{path} must be integers or floats of at most 64 bits. Received: |S2",
        ),
        ({"x": ROWS + 1j, "y": [0] * 9}, "x of hdf5:{path} must be integers or floats"),
        ({"x": np.zeros(9), "y": [0] * 9}, "x of hdf5:{path} must be of shape (examples, ...)"),
        ({"x": h5py.Empty("f4"), "y": [0]}, "x of hdf5:{path} must be of shape (examples, ...)"),
        ({"x": ROWS[:0], "y": ROWS[:0, 0]}, "x of hdf5:{path} must be of a shape without zeros"),
        ({"x": ROWS, "y": np.zeros((9, 2, 2))}, "y of hdf5:{path} must be of shape (examples,)"),
        ({"x": ROWS, "y": h5py.Empty("i4")}, "y of hdf5:{path} must be of shape (examples,)"),
        ({"x": ROWS, "y": np.arange(9.0)}, "y of hdf5:{path} must be integers or one-hot. Received: float64"),
        (
            {"x": ROWS, "y": np.arange(8)},
            "y of hdf5:{path} must be of as many rows as x, 9. Received: 8",
        ),
        ({"x": ROWS, "y": np.arange(9) - 1}, "y of hdf5:{path} must be labels of 0 or more. Received: -1"),
        ({"x": ROWS, "y": [0] * 9}, "classes of hdf5:{path} must be 2..1048576. Received: 1"),
        ({"x": ROWS, "y": [2**40] * 9}, "classes of hdf5:{path} must be 2..1048576. Received: 1099511627777"),
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
    assert "must be an existing file" in message(Hdf5(str(tmp_path)).info)
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


# Synthetic


def test_synthetic_is_independent_of_how_rows_are_asked_for(monkeypatch):
    options = {"shape": (5, 6, 2), "classes": 4, "examples": 1050, "seed": 3}
    x, y = Synthetic(**options).read(np.arange(1050))
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (1050, 5, 6, 2), np.int64)
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
    assert dataset.info() == Info(None, None, 10_000_000, (224, 224, 3), 100, 1)
    assert Synthetic().info().block_rows == 120


# MNIST


def test_mnist_12k_is_real_and_small():
    file = Path(mnist_12k.__file__).with_name("mnist-12k.h5")
    assert file.stat().st_size <= 3_000_000
    dataset = parse("mnist-12k")
    info = dataset.info()
    assert info == Info(10_000, 2_000, 12_000, (28, 28, 1), 10)
    x, y = dataset.read(np.arange(12_000))
    assert (x.dtype, x.shape, y.dtype) == (np.uint8, (12_000, 28, 28, 1), np.int64)
    # MNIST's shares of digits: 6742 ones and 5421 fives of 60 000.
    counts = np.bincount(y[:10_000])
    assert (len(counts), counts[1], counts[5]) == (10, 1124, 904)
    assert sizes(split_rows(info, "default")) == (9_000, 1_000, 2_000)
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
    text = message(lambda: parse("mnist-12k").read(np.arange(2)), DataError)
    assert text.startswith("mnist-12k.h5 must be as it was installed.")


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
    assert parse("mnist").info() == Info(60_000, 10_000, 70_000, (28, 28, 1), 10)
    text = message(lambda: parse("mnist").read(np.arange(2)))
    assert "Put mnist.npz in the folder that STRATBENCH_DATA names, or use mnist-12k." in text


def test_wrong_mnist_files(empty_home, tmp_path, monkeypatch):
    monkeypatch.setenv("STRATBENCH_DATA", str(tmp_path))
    path = tmp_path / "mnist.npz"

    def fails(reason):
        text = message(lambda: parse("mnist").read(np.arange(2)), DataError)
        assert text.startswith(f"mnist.npz must be Keras's MNIST file. Received: {path} (")
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
    _make_mnist_12k.make(real_mnist, made)
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


# All together


@pytest.mark.parametrize("reference", ["mnist-12k", "synthetic:examples=500"])
def test_through_batches(reference):
    dataset = parse(reference)
    parts = split_rows(dataset.info(), "default")
    source = Batches(dataset, parts["train"], global_batch=100, seed=0, shards=2, shard=1, sharding=dataset.sharding)
    x, y = next(source.epoch(0))
    assert x.shape == (50, *dataset.info().shape)
    assert y.max() < dataset.info().classes


def test_by_block():
    rows = np.array([7, 0, 15, 8, 1])
    assert [(block, rows[places].tolist()) for block, places in _blocks.by_block(rows, 5)] == [
        (0, [0, 1]),
        (1, [7, 8]),
        (3, [15]),
    ]
    assert list(_blocks.by_block(rows[:0], 5)) == []
