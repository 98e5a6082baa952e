"""Examples that a source yields batch by batch, and that need not fit into memory.

A source is read twice: once to see how many examples there are and what they look like, and once to keep them. If the
second time gives others, such as by random augmentation, one pass would not be what ``fit`` trains on, so it is
refused. If it gives the same ones in another order, as after a shuffle, it is read once more, and the examples are kept
in an order of their own: that of their digests.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...datasets.prepared import PARTS, Column, Examples, UnfitError, is_text
from ...datasets.structure import leaves, map_structure, named

Batches = Callable[[], Iterator[Examples]]
"""A set's batches from its start, each time that it is called."""

_GROUP_ROWS, _GROUP_BYTES = 256, 2**22
_DIGEST_BYTES = 16


class Stream:
    """One set. Implements `stratbench.datasets.prepared.Streamed`.

    Args:
        name: of the set, in messages.
        tell: told how many examples were read so far, often.
        timeout: in seconds, for the first reading of a source that may have no end.

    Raises:
        UnfitError: it has no examples, takes too long, or has batches that don't fit one another. So does `parts`, if
            its examples change.
    """

    def __init__(
        self, name: str, batches: Batches, tell: Callable[[str], None] = lambda words: None, timeout: float = math.inf
    ):
        self._name, self._batches, self._tell = name, batches, tell
        self.examples, self._digests = self._survey(timeout)

    def _survey(self, timeout: float) -> tuple[Examples, np.ndarray]:
        """What the examples look like, and the digest of each."""
        columns: Any = None
        digests: list[np.ndarray] = []
        begin = time.monotonic()
        for batch, found in self._digested("read"):
            columns = self._seen(columns, batch)
            digests.append(found)
            if time.monotonic() - begin > timeout:
                raise UnfitError(
                    f"the {self._name} set must end within {timeout:g} s (--timeout), as its length is not known: "
                    "assert_cardinality(n) tells it, and take(n) ends it",
                    f"{sum(map(len, digests)):,} examples so far",
                )
        if columns is None:
            raise UnfitError(f"the {self._name} set must have examples", "none")
        return columns, np.concatenate(digests)

    def parts(self) -> Iterator[tuple[np.ndarray, Examples]]:
        """See `Streamed.parts`."""
        place = 0
        for batch, found in self._digested("kept"):
            rows = np.arange(place, place + len(found))
            if not np.array_equal(self._digests[place : place + len(found)], found):
                yield from self._sorted_parts()
                return
            place += len(found)
            yield rows, batch
        self._check_count(place)

    def _sorted_parts(self) -> Iterator[tuple[np.ndarray, Examples]]:
        places = np.sort(self._digests)
        taken = np.zeros(len(places), np.int64)
        count = 0
        for batch, found in self._digested("kept"):
            rows = np.empty(len(found), np.int64)
            for at, first in enumerate(np.searchsorted(places, found)):
                row = first + (taken[first] if first < len(places) else 0)
                if row >= len(places) or places[row] != found[at]:
                    raise self._changes()
                taken[first] += 1
                rows[at] = row
            count += len(found)
            yield rows, batch
        self._check_count(count)

    def _check_count(self, count: int) -> None:
        if count != len(self._digests):
            raise self._changes()

    def _changes(self) -> UnfitError:
        return UnfitError(
            f"the {self._name} set must give the same examples each time; leave random changes to layers of the model",
            "others when it was read again",
        )

    def _digested(self, verb: str) -> Iterator[tuple[Examples, np.ndarray]]:
        """Batches, and a digest of each of their examples."""
        count = 0
        for batch in _grouped(self._checked()):
            found = _digests(batch)
            count += len(found)
            self._tell(f"{count:,} examples of the {self._name} set {verb}")
            yield batch, found

    def _checked(self) -> Iterator[Examples]:
        like: Any = None
        for batch in self._batches():
            if any(not array.shape for array in leaves(batch)):
                raise UnfitError(
                    f"the {self._name} set must give batches; a tf.data.Dataset needs batch(n)", "single values"
                )
            if len({len(array) for array in leaves(batch)}) > 1:
                rows = ", ".join(str(len(array)) for array in leaves(batch))
                raise UnfitError(f"batches of the {self._name} set must have arrays of as many rows", rows)
            look = _look(batch)
            like = like or look
            if look != like:
                raise UnfitError(f"batches of the {self._name} set must have examples of one shape, {like}", look)
            yield batch

    @staticmethod
    def _seen(columns: Any, batch: Examples) -> Any:
        """What the examples so far look like."""
        new = map_structure(lambda array: Column(array.shape, array.dtype), batch)
        return new if columns is None else map_structure(_joined, columns, new)


def _look(batch: Examples) -> str:
    """The arrays in words, without the number of examples."""
    arrays = [pair for name, part in zip(PARTS, batch, strict=False) for pair in named(part, name)]
    return ", ".join(f"{name} {array.shape[1:]}{' text' if is_text(array.dtype) else ''}" for name, array in arrays)


def _joined(column: Column, other: Column) -> Column:
    rows = len(column) + len(other)
    return replace(column, shape=(rows, *column.shape[1:]), dtype=np.result_type(column.dtype, other.dtype))


def _grouped(batches: Iterator[Examples]) -> Iterator[Examples]:
    """Small batches as larger ones: each has a cost of its own."""
    group: list[Examples] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += len(leaves(batch)[0])
        size += sum(array.nbytes for array in leaves(batch))
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield _concatenated(group)
            group, rows, size = [], 0, 0
    if group:
        yield _concatenated(group)


def _concatenated(group: list[Examples]) -> Examples:
    if len(group) == 1:
        return group[0]
    return tuple(map_structure(lambda *arrays: np.concatenate(arrays), *parts) for parts in zip(*group, strict=True))


def _digests(batch: Examples) -> np.ndarray:
    """Of every example."""
    arrays = [np.ascontiguousarray(array) for array in leaves(batch)]
    found = [
        hashlib.blake2b(b"".join(_row_bytes(array[row]) for array in arrays), digest_size=_DIGEST_BYTES).digest()
        for row in range(len(arrays[0]))
    ]
    return np.array(found, f"S{_DIGEST_BYTES}")


def _row_bytes(row: Any) -> bytes:
    # The width of text is that of the longest in its batch.
    return b"\0".join(row.flat) + b"\0" if isinstance(row, np.ndarray) and row.dtype.kind == "S" else row.tobytes()
