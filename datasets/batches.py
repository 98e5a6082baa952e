"""The examples that one process reads in each step: the same work for any number of processes.

The order depends only on the spec and the data, never on the machine. Data of at most ``KEPT_BYTES`` is read once and
kept. Larger data is read in windows of at most ``WINDOW_BYTES``: the next one while steps use the one before. Large
batches, too, are made ready during the step before.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..errors import DataError, UsageError
from ._arrays.ahead import ahead
from ._arrays.order import Order
from .base import Dataset, Sharding
from .structure import leaves, map_structure, named

Last = Literal["drop", "keep"]

Batch = tuple[Any, ...]
"""``(x, y)`` or ``(x, y, sample_weight)``: structures of arrays."""

_Read = tuple[np.ndarray, Batch]
"""Which rows of the data set a batch has, and the batch."""

_PARTS = ("examples", "targets", "sample weights")
# Bytes of decoded x. The order of examples in larger data sets depends on it: it must be equal on all machines.
KEPT_BYTES = 256 * 2**20
WINDOW_BYTES = KEPT_BYTES // 2
# For less, a thread gains nothing that could be measured.
_LARGE_BATCH_BYTES = 2 * 2**20
_CHECK_BYTES = 2**20


class Batches:
    """The part of every global batch that a process reads from ``rows``: ``[shard, shard + count)`` of ``shards``.

    ``sharding="batch"``: every epoch permutes all rows by ``[seed, epoch]``, and each shard is a contiguous slice of
    each global batch. The slices in order are the same global batch for any number of shards.
    ``sharding="static"``: a shard owns a contiguous part of ``rows`` (parts are equal, the rest is dropped) and
    permutes it by ``[seed, epoch, shard]``. With either sharding, several shards in one process follow one another in
    each batch: the same examples that several processes read.

    If the rows are too large to be kept, they are divided into windows of consecutive ``rows``. The windows are read
    in a permuted order, and each is shuffled. An incomplete global batch is dropped, or divided with ``last="keep"``:
    the shards' parts of it differ by at most one example, and may be empty.

    Attributes:
        order: which rows were read of the newest epoch, in which step.

    Raises UsageError if the global batch is larger than ``rows`` or isn't a multiple of ``shards``.
    """

    order: Order

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        *,
        global_batch: int,
        seed: int,
        shards: int = 1,
        shard: int = 0,
        count: int = 1,
        sharding: Sharding = "batch",
        last: Last = "drop",
    ) -> None:
        if global_batch < 1 or global_batch % shards:
            raise UsageError(f"global batch must be a multiple of its {shards} shards. Received: {global_batch}")
        if global_batch > len(rows):
            raise UsageError(
                f"global batch must be at most the {len(rows)} training examples. Received: {global_batch}"
            )
        self._steps = steps_per_epoch(len(rows), global_batch, last)
        self._large = _example_bytes(dataset) * global_batch // shards * count >= _LARGE_BATCH_BYTES
        self._rows = dataset.info().examples
        mine = range(shard, shard + count)
        if sharding == "static":
            dealt = len(rows) if last == "keep" else len(rows) // shards * shards
            parts = np.array_split(rows[:dealt], shards)
            size = global_batch // shards
            self._streams = [_Stream(dataset, parts[part], size, seed, (part,), last) for part in mine]
        else:
            self._streams = [_Stream(dataset, rows, global_batch, seed, (), last, shards, mine)]

    @property
    def steps_per_epoch(self) -> int:
        """Global steps in one epoch, the same for every shard."""
        return self._steps

    @property
    def kept(self) -> bool:
        """Whether all examples are kept in memory."""
        return all(stream.fits for stream in self._streams)

    def load(self) -> None:
        """Read the data that is kept over epochs: all of it, or nothing if it is too large.

        Otherwise the first epoch would read it, in the time of the first step. Raises the errors of epoch().
        """
        for stream in self._streams:
            stream.load()

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield a batch for each of ``steps_per_epoch`` steps, ``global_batch // shards * count`` examples each.

        It is what the data set's ``read`` returns: new arrays as stored. Raises DataError for a label out of range, a
        number that isn't finite, and a negative sample weight. `order` tells what was read by the last iteration.
        """
        sources = [stream.epoch(number, self._steps) for stream in self._streams]
        batches = sources[0] if len(sources) == 1 else map(_joined, zip(*sources, strict=True))
        self.order = Order(number, self._rows)
        for rows, batch in ahead(batches) if self._large else batches:
            self.order.note(rows)
            yield batch


class _Stream:
    """Batches of ``batch`` examples from ``rows``, permuted by ``[seed, epoch, *own]``.

    Each batch is divided into ``shards``; the consecutive shards in ``mine`` are read.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        batch: int,
        seed: int,
        own: tuple[int, ...],
        last: Last,
        shards: int = 1,
        mine: range = range(1),
    ) -> None:
        self._dataset, self._rows, self._batch, self._last = dataset, rows, batch, last
        self._seed, self._own = seed, own
        self._shards, self._mine = shards, mine
        self._kept: Batch | None = None

    @property
    def fits(self) -> bool:
        return len(self._windows) == 1

    def load(self) -> None:
        if self._kept is None and self.fits:
            self._kept = _load(self._dataset, self._rows)

    def epoch(self, number: int, steps: int) -> Iterator[_Read]:
        self.load()
        random = np.random.default_rng([self._seed, number, *self._own])
        windows = [self._windows[index] for index in random.permutation(len(self._windows))]
        left = steps
        for read in self._kept_batches(random) if self._kept is not None else self._read_batches(windows, random):
            yield read
            left -= 1
        if left:
            # The last step of a static part that is one example shorter than the others.
            yield self._rows[:0], self._nothing()

    def _kept_batches(self, random: np.random.Generator) -> Iterator[_Read]:
        order = random.permutation(len(self._rows))
        # Copies, also if a slice would be enough: a view in the caller would keep all examples in memory.
        for part in self._parts(len(order)):
            places = order[part]
            yield self._rows[places], map_structure(lambda array, rows=places: array.take(rows, axis=0), self._kept)

    def _read_batches(self, windows: list[np.ndarray], random: np.random.Generator) -> Iterator[_Read]:
        for rows, loaded, sizes in ahead(self._read(window, random) for window in windows):
            end = 0
            for size in sizes:
                start, end = end, end + size
                yield rows[start:end], _copy(loaded, start, end)

    def _read(self, window: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, Batch, list[int]]:
        """This process's examples of one window, in the order of its batches: rows, examples, the batches' sizes."""
        order = random.permutation(len(window))
        parts = [order[part] for part in self._parts(len(order))]
        rows = window[np.concatenate([order[:0], *parts])]
        return rows, _load(self._dataset, rows) if len(rows) else self._nothing(), list(map(len, parts))

    def _parts(self, count: int) -> Iterator[slice]:
        """The slices of this process's shards of each batch, among ``count`` examples in order."""
        for start in range(0, count, self._batch):
            size = min(self._batch, count - start)
            if size < self._batch and self._last == "drop":
                return
            share, longer = divmod(size, self._shards)
            first, end = (start + at * share + min(at, longer) for at in (self._mine.start, self._mine.stop))
            yield slice(first, end)

    def _nothing(self) -> Batch:
        return _copy(self._kept or _load(self._dataset, self._rows[:1]), 0, 0)

    @cached_property
    def _windows(self) -> list[np.ndarray]:
        return _windows(self._dataset, self._rows, self._batch)


def steps_per_epoch(examples: int, global_batch: int, last: Last) -> int:
    """Number of global batches in an epoch of ``examples``, with the incomplete one if it is kept."""
    return -(-examples // global_batch) if last == "keep" else examples // global_batch


def sequential(dataset: Dataset, rows: np.ndarray, batch: int) -> Iterator[Batch]:
    """Yield all examples of ``rows`` in order, ``batch`` at a time, for evaluation; the last batch may be smaller.

    Arrays and errors are those of :meth:`Batches.epoch`. No more than one window is in memory.
    """
    for window in _windows(dataset, rows, batch):
        yield from _in_order(dataset, window, batch)


def _in_order(dataset: Dataset, window: np.ndarray, batch: int) -> Iterator[Batch]:
    loaded = _load(dataset, window)
    for start in range(0, len(window), batch):
        yield _copy(loaded, start, start + batch)


def _copy(batch: Batch, start: int, end: int) -> Batch:
    return map_structure(lambda array: array[start:end].copy(), batch)


def _windows(dataset: Dataset, rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Cut ``rows`` into windows: one if all rows are kept, else multiples of ``batch`` and the rest."""
    example_bytes = _example_bytes(dataset)
    if len(rows) * example_bytes <= KEPT_BYTES:
        return [rows]
    limit = max(1, WINDOW_BYTES // (example_bytes * batch)) * batch
    count, batches = -(-len(rows) // limit), len(rows) // batch
    # Windows of nearly equal size, the smaller ones last: a window with only the rest would have no full batch.
    return np.split(rows, [-(-batches * index // count) * batch for index in range(1, count)])


def _example_bytes(dataset: Dataset) -> int:
    return sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in leaves(dataset.info().x))


def _joined(parts: tuple[_Read, ...]) -> _Read:
    rows, batches = zip(*parts, strict=True)
    return np.concatenate(rows), map_structure(lambda *arrays: np.concatenate(arrays), *batches)


def _load(dataset: Dataset, rows: np.ndarray) -> Batch:
    """Read and check."""
    batch = dataset.read(rows)
    if (classes := dataset.info().classes) is not None:
        _check_labels(dataset, rows, batch[1], classes)
    for what, part in zip(_PARTS, batch, strict=False):
        for name, array in named(part, what):
            if array.dtype.kind == "f":
                _check(dataset, rows, array, name, "finite numbers", np.isfinite)
            if what == "sample weights":
                _check(dataset, rows, array, name, "0 or more", lambda values: values >= 0)
    return batch


def _check_labels(dataset: Dataset, rows: np.ndarray, y: np.ndarray, classes: int) -> None:
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        rule = f"labels must be 0..{classes - 1} for {classes} classes"
        raise DataError(f"{rule}. Received: {y[first]} in row {rows[first]} of {dataset.reference}")


def _check(
    dataset: Dataset,
    rows: np.ndarray,
    array: np.ndarray,
    name: str,
    rule: str,
    fits: Callable[[np.ndarray], np.ndarray],
) -> None:
    # In pieces: the result of isfinite for a whole window would take a quarter of the window's memory.
    step = max(1, _CHECK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        good = fits(array[start : start + step])
        if not good.all():
            first = start + int((~good).reshape(len(good), -1).any(axis=1).argmax())
            value = array[first][~fits(array[first])][0] if array.ndim > 1 else array[first]
            raise DataError(f"{name} must be {rule}. Received: {value} in row {rows[first]} of {dataset.reference}")
