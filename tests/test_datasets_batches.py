import threading
import tracemalloc

import numpy as np
import pytest
from dataset_helpers import Table, flat, message, rows_of, windows_of, write
from stratbench.datasets import batches
from stratbench.datasets.base import parse
from stratbench.datasets.batches import Batches, sequential
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.split import split_rows
from stratbench.errors import DataError


def kept(rows, *, global_batch=12, **settings):
    return Batches(Table(120), rows, global_batch=global_batch, seed=5, last="keep", **settings)


def numbers(source):
    """As rows_of, for batches that may be empty."""
    return [x[:, 0].tolist() for x, _ in source]


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


@pytest.mark.parametrize("sharding", ["batch", "static"])
@pytest.mark.parametrize("last", ["drop", "keep"])
@pytest.mark.parametrize("examples", [72, 80, 83])
@pytest.mark.parametrize("window_rows", [1000, 24])
def test_shards_in_one_process_are_those_of_several(monkeypatch, window_rows, examples, last, sharding):
    """Mirrored reads all replicas' shards in one process: exactly what as many processes read."""
    windows_of(monkeypatch, window_rows)
    rows = np.random.default_rng(0).permutation(100)[:examples]

    def epoch(shard, count):
        settings = {"global_batch": 12, "seed": 5, "shards": 4, "sharding": sharding, "last": last}
        return list(Batches(Table(), rows, shard=shard, count=count, **settings).epoch(2))

    alone = [epoch(shard, 1) for shard in range(4)]
    for shard in range(4):
        for count in range(1, 5 - shard):
            for step, (x, y) in enumerate(epoch(shard, count)):
                parts = [alone[shard + at][step] for at in range(count)]
                for found, side in ((x, 0), (y, 1)):
                    expected = np.concatenate([part[side] for part in parts])
                    assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())


def test_static_shards_in_one_process_are_loaded_once():
    table = Table()
    source = Batches(table, np.arange(80), global_batch=8, seed=1, shards=2, count=2, sharding="static")
    source.load()
    loaded = len(table.reads)
    assert [sorted(flat(rows_of(source.epoch(number)))) for number in (0, 1)] == [list(range(80))] * 2
    assert len(table.reads) == loaded


class TestKeep:
    """An incomplete global batch is dealt out."""

    @pytest.mark.parametrize("window_rows", [1000, 24])
    @pytest.mark.parametrize("shards", [1, 2, 3])
    @pytest.mark.parametrize("examples", [72, 73, 80])
    def test_shards_make_up_the_whole_epoch(self, monkeypatch, examples, shards, window_rows):
        windows_of(monkeypatch, window_rows)
        rows = np.random.default_rng(0).permutation(100)[:examples]

        def epoch(shards, shard):
            return numbers(kept(rows, shards=shards, shard=shard).epoch(3))

        whole = epoch(1, 0)
        assert sorted(flat(whole)) == sorted(rows.tolist())
        assert len(whole) == kept(rows).steps_per_epoch == -(-examples // 12)
        assert sorted(map(len, whole))[1:] == [12] * (len(whole) - 1)
        for together, parts in zip(whole, zip(*[epoch(shards, i) for i in range(shards)], strict=True), strict=True):
            assert flat(parts) == together
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_complete_batches_are_those_of_drop(self):
        rows = np.arange(80)
        dropped = numbers(Batches(Table(), rows, global_batch=12, seed=5, shards=2).epoch(1))
        assert numbers(kept(rows, shards=2).epoch(1))[:-1] == dropped

    @pytest.mark.parametrize("sharding", ["batch", "static"])
    @pytest.mark.parametrize("window_rows", [1000, 12])
    def test_a_part_may_be_empty(self, monkeypatch, window_rows, sharding):
        windows_of(monkeypatch, window_rows)
        rows = np.arange(25)
        for shard in range(3):
            parts = list(kept(rows, shards=3, shard=shard, sharding=sharding).epoch(0))
            assert sorted(len(y) for _, y in parts) == sorted([4, 4, 1 if shard == 0 else 0])
            assert {(x.dtype, x.shape[1:], y.dtype) for x, y in parts} == {(np.dtype("int16"), (2,), np.dtype("int32"))}

    @pytest.mark.parametrize("shards", [1, 2, 3])
    @pytest.mark.parametrize("examples", [108, 109, 110])
    @pytest.mark.parametrize("window_rows", [1000, 24])
    def test_static_shards_leave_nothing_out(self, monkeypatch, window_rows, examples, shards):
        windows_of(monkeypatch, window_rows)
        rows = np.random.default_rng(0).permutation(120)[:examples]
        sources = [kept(rows, global_batch=6, shards=shards, shard=i, sharding="static") for i in range(shards)]
        owned = []
        for source in sources:
            first, second = numbers(source.epoch(0)), numbers(source.epoch(1))
            assert len(first) == source.steps_per_epoch == -(-examples // 6)
            assert sorted(flat(first)) == sorted(flat(second))
            owned.append(first)
        assert sorted(row for steps in owned for row in flat(steps)) == sorted(rows.tolist())
        # Each shard visits its own windows in its own order, so that their incomplete batches need not meet.
        for parts in zip(*owned, strict=True) if window_rows == 1000 else ():
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @pytest.mark.parametrize(
        ("examples", "size", "last", "steps"),
        [(80, 12, "keep", 7), (80, 12, "drop", 6), (72, 12, "keep", 6), (72, 12, "drop", 6), (5, 5, "keep", 1)],
    )
    def test_steps_per_epoch(self, examples, size, last, steps):
        assert batches.steps_per_epoch(examples, size, last) == steps
        source = Batches(Table(), np.arange(examples), global_batch=size, seed=0, last=last)
        assert (source.steps_per_epoch, len(list(source.epoch(0)))) == (steps, steps)


def test_a_process_reads_only_its_slices_of_a_window(monkeypatch):
    windows_of(monkeypatch, 40)
    table = Table()
    rows_of(Batches(table, np.arange(100), global_batch=20, seed=0, shards=2, shard=1).epoch(0))
    assert sorted(map(len, table.reads)) == [10, 20, 20]


def test_the_next_window_is_read_while_steps_use_the_one_before(monkeypatch):
    windows_of(monkeypatch, 40)
    wanted, allowed = threading.Semaphore(0), threading.Semaphore(1)

    class Slow(Table):
        def read(self, rows):
            wanted.release()
            assert allowed.acquire(timeout=10)
            return super().read(rows)

    steps = Batches(Slow(), np.arange(100), global_batch=20, seed=0).epoch(0)
    next(steps)
    # The first window was read; the second one is asked for without another step, and the third one is not.
    assert wanted.acquire(timeout=10) and wanted.acquire(timeout=10)
    assert not wanted.acquire(timeout=0.1)
    allowed.release()
    allowed.release()
    assert len(list(steps)) == 4


def test_an_epoch_that_is_left_early_leaves_no_thread(monkeypatch):
    windows_of(monkeypatch, 40)
    steps = Batches(Table(), np.arange(100), global_batch=20, seed=0).epoch(0)
    next(steps)
    assert reading()
    steps.close()
    assert not reading()


def reading() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("read-ahead")]


def test_large_batches_are_made_ready_during_the_step_before(monkeypatch):
    expected = rows_of(Batches(Table(), np.arange(100), global_batch=20, seed=0).epoch(0))
    monkeypatch.setattr(batches, "_LARGE_BATCH_BYTES", 20 * 4)
    assert not reading()
    steps = Batches(Table(), np.arange(100), global_batch=20, seed=0).epoch(0)
    first = next(steps)
    assert reading()
    assert rows_of([first, *steps]) == expected and not reading()


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
    windows_of(monkeypatch, window_bytes, 1)

    class Wrong(Table):
        reference = "wrong"

        def read(self, rows):
            x, y = super().read(rows)
            return x, np.where(rows == 123, 11, y)

    dataset = Wrong(300)
    rows = np.random.default_rng(0).permutation(300)
    expected = "labels must be 0..2 for 3 classes. Received: 11 in row 123 of wrong"
    assert message(lambda: list(Batches(dataset, rows, global_batch=10, seed=0).epoch(0)), DataError) == expected
    assert message(lambda: list(sequential(dataset, rows, 7)), DataError) == expected

    x = np.zeros((300, 2, 2), np.float32)
    for value, text in ((np.nan, "nan"), (-np.inf, "-inf")):
        x[77, 1, 0] = value
        dataset = parse(f"hdf5:{write(tmp_path / f'{text}.h5', x=x)}")
        expected = f"examples must be finite numbers. Received: {text} in row 77 of {dataset.reference}"
        assert message(lambda d=dataset: list(sequential(d, rows, 7)), DataError) == expected


def test_never_more_than_two_windows_in_memory(tmp_path, monkeypatch):
    window = 4 * 2**20
    windows_of(monkeypatch, window, 1)
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

    # Beside the windows: the batch that is held, the one that is made, and h5py's pieces of 1 MiB.
    beside = 2 * batch_bytes + 3 * 2**20
    assert beside < window
    assert peak(lambda: consume(source.epoch(0))) < 2 * window + beside
    assert peak(lambda: consume(sequential(dataset, rows, 100))) < window + beside
