"""Who computes which portion of a batch: workers take them as they fall idle, and the first answer counts."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

_REMEMBERED = 64
_MOST_HOLDERS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What workers compute together: loss and gradient of a batch at some weights.

    Attributes:
        number: of the evaluation.
        batch: number of the batch.
        parts: the examples of each portion.
        before: how many portions all batches before had.
        weights: name of their vector.
    """

    number: int
    batch: int
    parts: Sequence[list[np.ndarray]]
    before: int
    weights: str


@dataclasses.dataclass(frozen=True)
class Portion:
    """A part of an evaluation's batch."""

    evaluation: Evaluation
    index: int


class Portions:
    """Used by one thread a worker, and by one that waits for the results.

    A portion is given to a second worker if the first has had it longer than portions usually take, and there is no
    other left.

    Args:
        workers: that are there at first.
        backup: whether portions are given twice.

    Attributes:
        workers: that are there.
        repeated: how many were given to a second worker, so far.
    """

    def __init__(self, workers: Collection[int], backup: bool, clock: Callable[[], float] = time.monotonic):
        self.workers, self._backup, self._clock = set(workers), backup, clock
        self._changed = threading.Condition()
        self._evaluation: Evaluation | None = None
        self._free: list[int] = []
        self._held: dict[int, dict[int, float]] = {}
        self._had: dict[int, set[int]] = {}
        self._results: dict[int, tuple[int, Any]] = {}
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._error: BaseException | None = None
        self._closed = False
        self.repeated = 0

    def begin(self, evaluation: Evaluation) -> None:
        """Its portions are to be computed. Answers for those of the one before no longer count."""
        with self._changed:
            if self._evaluation is None or evaluation.batch != self._evaluation.batch:
                self._had = {}
            self._evaluation = evaluation
            self._free, self._held, self._results = list(range(len(evaluation.parts))), {}, {}
            self._changed.notify_all()

    def take(self, worker: int) -> Portion | None:
        """The next portion for a worker that is idle. Waits for one; None when there will be none."""
        with self._changed:
            while not self._closed and worker in self.workers:
                index, wait = self._choose(worker)
                if index is not None and self._evaluation:
                    holders = self._held.setdefault(index, {})
                    self.repeated += bool(holders)
                    holders[worker] = self._clock()
                    self._had.setdefault(index, set()).add(worker)
                    return Portion(self._evaluation, index)
                self._changed.wait(wait)
        return None

    def _choose(self, worker: int) -> tuple[int | None, float | None]:
        """(a portion, or None; seconds after which to ask again). It best takes one whose examples it has had."""
        if self._free:
            best = min(self._free, key=lambda i: (worker not in self._had.get(i, ()), bool(self._had.get(i)), i))
            self._free.remove(best)
            return best, None
        others = [
            (min(holders.values()), index)
            for index, holders in self._held.items()
            if len(holders) < _MOST_HOLDERS and worker not in holders
        ]
        if not others or not self._backup or not self._seconds:
            return None, None
        since, index = min(others)
        left = since + median(self._seconds) - self._clock()
        return (index, None) if left <= 0 else (None, left)

    def done(self, worker: int, portion: Portion, result: Any) -> None:
        """A worker's answer. It counts if it is the first."""
        with self._changed:
            if portion.evaluation is not self._evaluation or portion.index in self._results:
                return
            self._seconds.append(self._clock() - self._held.pop(portion.index)[worker])
            self._results[portion.index] = (worker, result)
            self._changed.notify_all()

    def lost(self, worker: int, error: BaseException) -> None:
        """A worker is gone; what it had is for the others."""
        with self._changed:
            self.workers.discard(worker)
            self._error = error
            for index, holders in list(self._held.items()):
                holders.pop(worker, None)
                if not holders:
                    del self._held[index]
                    self._free.insert(0, index)
            self._changed.notify_all()

    def results(self) -> Iterator[tuple[int, int, Any]]:
        """(portion, the worker whose answer counts, its result), in the order of the portions, each once it is there.

        Raises what happened to the last worker when none is left.
        """
        for index in range(len(self._evaluation.parts) if self._evaluation else 0):
            with self._changed:
                while index not in self._results:
                    if not self.workers and self._error:
                        raise self._error
                    self._changed.wait()
                worker, result = self._results[index]
            yield index, worker, result

    def close(self) -> None:
        """There are no more portions."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
