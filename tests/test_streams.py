"""Examples that come batch by batch are kept without being in memory all at once."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
from dataset_helpers import whole
from stratbench.datasets import prepared
from stratbench.datasets.prepared import UnfitError, keep
from stratbench.errors import DataError
from stratbench.harness.worker import examples, streams
from stratbench.harness.worker.prepare import Progress
from stratbench.harness.worker.streams import Stream

# TensorFlow takes seconds to load.
pytestmark = pytest.mark.slow

X = np.arange(1000, dtype="float32").reshape(500, 2)
Y = np.arange(500) % 7
Batch = tuple[Any, ...]


def batches(order: np.ndarray, size: int = 30) -> Iterator[Batch]:
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield X[rows], Y[rows]


def in_turn(*orders: np.ndarray) -> Callable[[], Iterator[Batch]]:
    """Each reading has the next order; the last one stays."""
    left = list(orders)
    return lambda: batches(left.pop(0) if len(left) > 1 else left[0])


def shuffled(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(500)


def test_is_kept_in_its_order() -> None:
    x, y = whole(Stream("train", in_turn(np.arange(500))))
    assert np.array_equal(x, X) and np.array_equal(y, Y)


def test_another_order_each_time_is_one_order(tmp_path: Path) -> None:
    files = {
        keep(tmp_path, {"train": Stream("train", in_turn(*map(shuffled, seeds)))}) for seeds in ((1, 2, 3), (4, 5))
    }
    (file,) = files
    with h5py.File(file) as h5:
        x, y = h5["x"][:], h5["y"][:]
    assert not np.array_equal(x, X) and np.array_equal(x[np.argsort(x[:, 0])], X)
    assert np.array_equal(y, (x[:, 0] // 2).astype(int) % 7)


def test_a_change_of_order_midway() -> None:
    """The first batches are as before, and were written already."""
    later = np.concatenate([np.arange(300), 300 + np.random.default_rng(0).permutation(200)])
    found = [whole(Stream("train", in_turn(np.arange(500), later)))[0] for _ in range(2)]
    assert np.array_equal(*found) and np.array_equal(np.sort(found[0], axis=0), X)


@pytest.mark.parametrize("same", [1, 3])
def test_equal_examples_are_all_kept(same: int) -> None:
    rows = np.arange(500) // same
    x, _ = whole(Stream("train", in_turn(rows, rows[shuffled(1)])))
    assert np.array_equal(np.sort(x[:, 0]), X[rows][:, 0])


OTHERS = {
    "one less": np.arange(499),
    "one more": np.append(np.arange(500), 3),
    "one changed": np.append(np.arange(499), 3),
    "one changed in another order": np.append(shuffled(0)[:499], shuffled(0)[0]),
    "none": np.arange(0),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_examples_are_refused(kind: str) -> None:
    stream = Stream("test", in_turn(np.arange(500), OTHERS[kind]))
    with pytest.raises(UnfitError) as caught:
        whole(stream)
    assert caught.value.rule.startswith("the test set must give the same examples each time")


def test_batches_differ_in_type_and_width() -> None:
    parts = [(np.array([1, 2]), np.array([b"a", b""])), (np.array([0.5]), np.array([b"longer"]))]
    numbers, words = whole(Stream("train", lambda: iter(parts)))
    assert numbers.tolist() == [1.0, 2.0, 0.5] and words.tolist() == [b"a", b"", b"longer"]
    assert (numbers.dtype, words.dtype) == (np.dtype("float64"), np.dtype("S6"))


WRONG = {
    "no batch": ([], "must have examples. Received: none"),
    "another shape": ([(X[:2],), (X[:2, :1],)], "must have examples of one shape, x (2,). Received: x (1,)"),
    "another structure": ([({"a": X},), ({"b": X},)], "of one shape, x/a (2,). Received: x/b (2,)"),
    "text among numbers": ([(Y[:2],), (np.array([b"a"]),)], "of one shape, x (). Received: x () text"),
    "other counts": ([(X, Y[:3])], "must have arrays of as many rows. Received: 500, 3"),
    "no axis of examples": ([(np.array(3),)], "must give batches; a tf.data.Dataset needs batch(n)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused(kind: str) -> None:
    parts, words = WRONG[kind]
    with pytest.raises(UnfitError) as caught:
        Stream("train", lambda: iter(parts))
    assert words in f"{caught.value.rule}. Received: {caught.value.received}"


def test_one_of_unknown_length_must_end_within_the_timeout() -> None:
    endless = tf.data.Dataset.from_generator(itertools.count, output_signature=tf.TensorSpec((), tf.int64)).batch(9)
    with pytest.raises(UnfitError) as caught:
        examples.sets(endless, timeout=0.2)
    assert caught.value.rule.startswith("the train set must end within 0.2 s (--timeout), as its length is not known")
    assert caught.value.received.endswith("examples so far")


def test_one_of_known_length_may_take_longer() -> None:
    known = tf.data.Dataset.range(1000).batch(9)
    untold = tf.data.Dataset.from_generator(lambda: iter(range(1000)), output_types="int64").batch(9)
    told = untold.apply(tf.data.experimental.assert_cardinality(112))
    for each in (known, told):
        assert len(examples.sets(each, timeout=0.0)["train"].examples[0]) == 1000
    with pytest.raises(UnfitError):
        examples.sets(untold, timeout=0.0)


def test_never_more_than_a_few_batches_in_memory(tmp_path: Path) -> None:
    rows, size = 400, 100

    def large() -> Iterator[Batch]:
        for start in range(0, rows, size // 10):
            x = np.random.default_rng(start).normal(size=(size // 10, 2**15))
            yield x, np.arange(start, start + size // 10)

    batch_bytes = size // 10 * 2**15 * 8
    tracemalloc.start()
    try:
        keep(tmp_path, {"train": Stream("train", large)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A group of batches, its parts, what is written and a row's digest.
    assert rows // 10 * batch_bytes > 100e6 > 4 * (streams._GROUP_BYTES + batch_bytes) > peak


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda folder: free)
    stream = Stream("train", lambda: iter([(np.zeros((300, 1000)), np.zeros(300))] * 2))
    with pytest.raises(DataError) as caught:
        keep(tmp_path, {"train": stream})
    assert str(caught.value) == "the examples take 5 MiB, and the output folder's disk has 1 MiB left"
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_source_while_it_is_kept_is_the_sources(tmp_path: Path) -> None:
    left = [np.arange(500)]

    def source() -> Iterator[Batch]:
        if not left:
            raise OSError("gone")
        yield from batches(left.pop())

    with pytest.raises(OSError, match=r"^gone$"):
        keep(tmp_path, {"train": Stream("train", source)})


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    keep(tmp_path, {"train": Stream("train", in_turn(np.arange(500)), told.append)}, told.append)
    assert told[:2] == ["270 examples of the train set read", "500 examples of the train set read"]
    assert told[2:4] == ["270 examples of the train set kept", "500 examples of the train set kept"]
    assert told[-1].endswith("examples of the train set checked")


def test_progress_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    times = iter([0.0, 0.9, 1.0, 1.0, 1.5, 2.1, 2.1])
    tell = Progress(tmp_path / "file", lambda: next(times))
    seen = []
    for words in ("a", "b", "c", "d"):
        tell(words)
        seen.append((tmp_path / "file").read_text() if (tmp_path / "file").exists() else "")
    assert seen == ["", "b", "b", "d"]
