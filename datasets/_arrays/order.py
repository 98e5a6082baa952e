"""Which examples were in which step of an epoch, as a process read them: kept in a few digits, and in a set of bits."""

import base64
import zlib
from typing import Any

import numpy as np

_MOST_ROWS = 2**23
"""Of data of which it is kept which rows were read: a megabyte of bits."""
_PENDING_ROWS = 2**16

_GOLDEN, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Order:
    """Filled while an epoch is read.

    Its digest is a sum over all pairs of a row and its step. So the digests of several processes add up to that of all
    of them, and it does not matter which of them reads which rows of a step. Source of the mixing function: Steele,
    Lea, Flood: Fast splittable pseudorandom number generators, 2014 (SplitMix64).

    Args:
        epoch: its number. Which rows were read is kept of the first one, 0.
        rows: of the whole data.
    """

    def __init__(self, epoch: int, rows: int) -> None:
        self._epoch = epoch
        self._steps = self._examples = self._digest = 0
        self._pending: list[tuple[int, np.ndarray]] = []
        self._pending_rows = 0
        self._seen = np.zeros(rows, bool) if epoch == 0 and rows <= _MOST_ROWS else None

    def note(self, rows: np.ndarray) -> None:
        """The next step has these rows. Next to nothing is computed until many have come: steps are timed."""
        self._pending.append((self._steps, rows))
        self._steps += 1
        self._pending_rows += len(rows)
        if self._pending_rows >= _PENDING_ROWS:
            self._fold()

    def told(self) -> dict[str, Any]:
        """What is journalled.

        Returns:
            ``examples``: how many were read; ``digest``: 16 hexadecimal digits; ``seen``, if it is kept: the bits of
            all rows, packed by NumPy, compressed by zlib, in base64.
        """
        self._fold()
        found = {"examples": self._examples, "digest": f"{self._digest:016x}"}
        if self._seen is not None:
            found["seen"] = base64.b64encode(zlib.compress(np.packbits(self._seen).tobytes(), 1)).decode()
        return found

    def _fold(self) -> None:
        if not self._pending:
            return
        steps, parts = zip(*self._pending, strict=True)
        rows = np.concatenate(parts).astype(np.uint64)
        keys = _mixed(np.array(steps, np.uint64) | np.uint64(self._epoch << 32))
        pairs = _mixed(rows + np.repeat(keys, [len(part) for part in parts]))
        self._digest = (self._digest + int(pairs.sum(dtype=np.uint64))) % 2**64
        self._examples += len(rows)
        if self._seen is not None:
            self._seen[rows.astype(np.int64)] = True
        self._pending, self._pending_rows = [], 0


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
