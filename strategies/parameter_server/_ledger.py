"""The updates that a worker pushed, in a file: those that a restoration undid can be counted even after its death."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Ledger:
    """Rows of int64: first (number of restorations taken into account, -1), then (number of an update, its step).

    A row is written before the step is over. A process that is killed has written all its updates, except one that it
    may have been waiting for.

    Args:
        folder: of the run's scratch files.
        worker: whose updates these are.
    """

    def __init__(self, folder: Path, worker: int):
        self._path = folder / f"updates-{worker}"
        if not self._path.exists():
            self._write(0, np.empty((0, 2), np.int64))
        self._file = self._path.open("ab", buffering=0)

    def note(self, number: int, step: int) -> None:
        """Add an update of this worker."""
        self._file.write(np.array([number, step], np.int64).tobytes())

    def seen(self) -> int:
        """How many restorations have been taken into account."""
        return int(self._rows()[0, 0])

    def undo(self, restorations: np.ndarray, before: int | None = None) -> int:
        """Take new restorations into account. Returns how many steps they undid.

        Args:
            restorations: of each one so far, how many updates it kept.
            before: the steps from this one on are not counted, as they will be repeated.
        """
        new = restorations[self.seen() :]
        if not len(new):
            return 0
        rows = self._rows()[1:]
        stay = rows[:, 0] < new.min()
        # A step that was repeated has several updates.
        undone = np.setdiff1d(rows[~stay, 1], rows[stay, 1])
        self._file.close()
        self._write(len(restorations), rows[stay])
        self._file = self._path.open("ab", buffering=0)
        return int(np.count_nonzero(undone < before)) if before is not None else len(undone)

    def _rows(self) -> np.ndarray:
        numbers = np.fromfile(self._path, np.int64)
        return numbers[: len(numbers) // 2 * 2].reshape(-1, 2)

    def _write(self, seen: int, rows: np.ndarray) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(np.concatenate([[[seen, -1]], rows]).astype(np.int64).tobytes())
        fresh.replace(self._path)
