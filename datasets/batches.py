"""The examples that one process reads in each step: the same work for any number of processes.

The order depends only on the spec and the data, never on the machine. Examples are read in windows of at most
``WINDOW_BYTES``; data that fits in one window is read once and kept.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np

from ..errors import DataError, UsageError
from .base import Dataset, Sharding

Last = Literal["drop", "keep"]

# Bytes of decoded x. The order of examples in larger data sets depends on it: it must be equal on all machines.
WINDOW_BYTES = 256 * 2**20
_CHECK_BYTES = 2**20


class Batches:
    """The part of every global batch that a process reads from ``rows``: ``[shard, shard + count)`` of ``shards``.

    ``sharding="batch"``: every epoch permutes all rows by ``[seed, epoch]``, and each shard is a contiguous slice of
    each global batch. The slices in order are the same global batch for any number of shards.
    ``sharding="static"``: a shard owns a contiguous part of ``rows`` (parts are equal, the rest is dropped) and
    permutes it by ``[seed, epoch, shard]``. With either sharding, several shards in one process follow one another in
    each batch: the same examples that several processes read.

    If the rows are larger than one window, they are divided into windows of consecutive ``rows``. The windows are read
    in a permuted order, and each is shuffled. An incomplete global batch is dropped, or divided with ``last="keep"``:
    the shards' parts of it differ by at most one example, and may be empty.

    Raises UsageError if the global batch is larger than ``rows`` or isn't a multiple of ``shards``.
    """

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

    def load(self) -> None:
        """Read the data that is kept over epochs: all of it, or nothing if it is larger than one window.

        Otherwise the first epoch would read it, in the time of the first step. Raises the errors of epoch().
        """
        for stream in self._streams:
            stream.load()

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``(x, y)`` for each of ``steps_per_epoch`` steps, ``global_batch // shards * count`` examples each.

        ``x`` keeps its stored dtype, ``y`` is int32; both are new arrays. Raises DataError for a label out of
        range or a number that isn't finite.
        """
        sources = [stream.epoch(number, self._steps) for stream in self._streams]
        if len(sources) == 1:
            yield from sources[0]
            return
        for parts in zip(*sources, strict=True):
            yield np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


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
        self._kept: tuple[np.ndarray, np.ndarray] | None = None

    def load(self) -> None:
        if self._kept is None and len(self._windows) == 1:
            self._kept = _load(self._dataset, self._rows)

    def epoch(self, number: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.load()
        random = np.random.default_rng([self._seed, number, *self._own])
        left = steps
        for index in random.permutation(len(self._windows)):
            for batch in self._visit(self._windows[index], random):
                yield batch
                left -= 1
        if left:
            # The last step of a static part that is one example shorter than the others.
            yield self._nothing()

    def _visit(self, window: np.ndarray, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield one window's batches. In a separate generator, so that its arrays are freed before the next window."""
        order = random.permutation(len(window))
        if self._kept is not None:
            x, y = self._kept
            # Copies, also if a slice would be enough: a view in the caller would keep the whole window in memory.
            yield from ((x.take(order[part], axis=0), y.take(order[part])) for part in self._parts(len(order)))
            return
        chosen = [order[part] for part in self._parts(len(order))]
        mine = np.concatenate([order[:0], *chosen])
        x, y = _load(self._dataset, window[mine]) if len(mine) else self._nothing()
        end = 0
        for part in chosen:
            start, end = end, end + len(part)
            yield x[start:end].copy(), y[start:end].copy()

    def _parts(self, count: int) -> Iterator[slice]:
        """The slices of this process's shards of each batch, among ``count`` examples in order."""
        for start in range(0, count, self._batch):
            size = min(self._batch, count - start)
            if size < self._batch and self._last == "drop":
                return
            share, longer = divmod(size, self._shards)
            first, end = (start + at * share + min(at, longer) for at in (self._mine.start, self._mine.stop))
            yield slice(first, end)

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = self._kept or _load(self._dataset, self._rows[:1])
        return x[:0].copy(), y[:0].copy()

    @cached_property
    def _windows(self) -> list[np.ndarray]:
        return _windows(self._dataset, self._rows, self._batch)


def steps_per_epoch(examples: int, global_batch: int, last: Last) -> int:
    """Number of global batches in an epoch of ``examples``, with the incomplete one if it is kept."""
    return -(-examples // global_batch) if last == "keep" else examples // global_batch


def sequential(dataset: Dataset, rows: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all examples of ``rows`` in order, ``batch`` at a time, for evaluation; the last batch may be smaller.

    Arrays and errors are those of :meth:`Batches.epoch`. No more than one window is in memory.
    """
    for window in _windows(dataset, rows, batch):
        yield from _in_order(dataset, window, batch)


def _in_order(dataset: Dataset, window: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, y = _load(dataset, window)
    for start in range(0, len(window), batch):
        yield x[start : start + batch].copy(), y[start : start + batch].copy()


def _windows(dataset: Dataset, rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Cut ``rows`` into windows: one if all rows fit, else multiples of ``batch`` and the rest."""
    example_bytes = dataset.read(rows[:1])[0].nbytes
    if len(rows) * example_bytes <= WINDOW_BYTES:
        return [rows]
    limit = max(1, WINDOW_BYTES // (example_bytes * batch)) * batch
    count, batches = -(-len(rows) // limit), len(rows) // batch
    # Windows of nearly equal size, the smaller ones last: a window with only the rest would have no full batch.
    return np.split(rows, [-(-batches * index // count) * batch for index in range(1, count)])


def _load(dataset: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read and check; ``y`` becomes int32."""
    x, y = dataset.read(rows)
    _check_labels(dataset, rows, y)
    if x.dtype.kind == "f":
        _check_finite(dataset, rows, x)
    return x, y.astype(np.int32)


def _check_labels(dataset: Dataset, rows: np.ndarray, y: np.ndarray) -> None:
    classes = dataset.info().classes
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        rule = f"labels must be 0..{classes - 1} for {classes} classes"
        raise DataError(f"{rule}. Received: {y[first]} in row {rows[first]} of {dataset.reference}")


def _check_finite(dataset: Dataset, rows: np.ndarray, x: np.ndarray) -> None:
    # In pieces: the result of isfinite for a whole window would take a quarter of the window's memory.
    step = max(1, _CHECK_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        finite = np.isfinite(x[start : start + step])
        if not finite.all():
            first = start + int((~finite).reshape(len(finite), -1).any(axis=1).argmax())
            value = x[first][~np.isfinite(x[first])][0]
            rule = "examples must be finite numbers"
            raise DataError(f"{rule}. Received: {value} in row {rows[first]} of {dataset.reference}")
