"""Parameter shards: each has the same part of every vector, and does what it is told.

The four commands of the paper, dot product, scaling, addition and multiplication, are two here: `Shards.dots`, and
`Shards.combine`, which scales and adds. Multiplication element by element is for updates by Keras's optimizers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import RunError
from .._shared.messages import Messages
from ..trainer import Memory, Server
from ._wire import hear, tell


class Shard(Server):
    """Serves until the coordinator is gone.

    Args:
        update: (weights, gradient, learning rate) → new weights, by an optimizer.
    """

    def __init__(
        self, messages: Messages, memory: Memory, update: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    ):
        self.memory = memory
        self._messages, self._update = messages, update
        self._vectors: dict[str, np.ndarray] = {}
        self._pushed: dict[tuple[int, int], list[np.ndarray]] = {}
        self._evaluation = 0
        self._lock = threading.Lock()

    def serve(self) -> None:
        """See `Server.serve`: one thread for each of the others, so that none waits for one that has stopped."""
        others = [peer for peer in range(1, self._messages.size) if peer != self._messages.rank]
        for peer in others:
            threading.Thread(target=self._answer, args=(peer,), daemon=True, name=f"peer-{peer}").start()
        self._answer(0)

    def _answer(self, peer: int) -> None:
        while True:
            try:
                words, arrays = hear(self._messages, peer)
            except RunError:
                return
            with self._lock:
                found = getattr(self, f"_{words.pop('do')}")(arrays, **words)
            if found is not None:
                try:
                    tell(self._messages, peer, *found)
                except RunError:
                    return

    def _put(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
        self._vectors.update(zip(names, arrays, strict=True))

    def _get(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {}, [self._vectors[name] for name in names]

    def _dots(self, arrays: Sequence[np.ndarray], pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, Any]]:
        found = [_dot(self._vectors[one], self._vectors[other]) for one, other in pairs]
        return ({"dots": found},)

    def _combine(self, arrays: Sequence[np.ndarray], into: str, terms: Sequence[tuple[float, str]]) -> None:
        total = np.zeros_like(self._vectors[terms[0][1]])
        for factor, name in terms:
            total += np.float32(factor) * self._vectors[name]
        self._vectors[into] = total

    def _begin(self, arrays: Sequence[np.ndarray], evaluation: int, into: str) -> tuple[dict[str, Any]]:
        self._evaluation, self._pushed = evaluation, {}
        self._vectors[into] = np.zeros_like(self._vectors["weights"])
        return ({},)

    def _push(self, arrays: list[np.ndarray], evaluation: int, portion: int, worker: int) -> tuple[dict[str, Any]]:
        # Of a portion that others were faster with.
        if evaluation == self._evaluation:
            self._pushed[portion, worker] = arrays
        return ({},)

    def _add(self, arrays: Sequence[np.ndarray], portion: int, worker: int, factor: float, into: str) -> None:
        gradient, *moved = self._pushed.pop((portion, worker))
        self._vectors[into] += np.float32(factor) * gradient
        if moved:
            (self._vectors["moved"],) = moved

    def _apply(self, arrays: Sequence[np.ndarray], rate: float) -> None:
        self._vectors["weights"] = self._update(self._vectors["weights"], self._vectors["gradient"], rate)


def _dot(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.einsum("i,i->", one, other, dtype=np.float64))


class Shards:
    """All shards, as another process sees them.

    Args:
        ranks: of their processes.
    """

    def __init__(self, messages: Messages, ranks: Sequence[int]):
        self._messages, self._ranks = messages, ranks

    def _all(self, arrays: Sequence[np.ndarray] = (), **words: Any) -> None:
        """One command for all, each with its part of the vectors."""
        cut = [np.array_split(each, len(self._ranks)) for each in arrays]
        for place, rank in enumerate(self._ranks):
            tell(self._messages, rank, words, [parts[place] for parts in cut])

    def _answers(self) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
        return [hear(self._messages, rank) for rank in self._ranks]

    def put(self, **vectors: np.ndarray) -> None:
        """Give them vectors, by name."""
        self._all(list(vectors.values()), do="put", names=list(vectors))

    def get(self, *names: str) -> list[np.ndarray]:
        """Whole vectors."""
        self._all(do="get", names=names)
        parts = [arrays for _, arrays in self._answers()]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def dots(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The dot product of each pair of vectors."""
        self._all(do="dots", pairs=pairs)
        return [sum(each) for each in zip(*(words["dots"] for words, _ in self._answers()), strict=True)]

    def combine(self, into: str, terms: Sequence[tuple[float, str]]) -> None:
        """``into`` ← Σ factor · vector."""
        self._all(do="combine", into=into, terms=terms)

    def begin(self, evaluation: int, into: str) -> None:
        """``into`` ← 0, for the gradients of this evaluation. Returns when all have done what they were told before."""
        self._all(do="begin", evaluation=evaluation, into=into)
        self._answers()

    def push(self, evaluation: int, portion: int, worker: int, *vectors: np.ndarray) -> None:
        """Leave a portion's gradient; of the first one, also what the model has moved. Returns when all have it."""
        self._all(vectors, do="push", evaluation=evaluation, portion=portion, worker=worker)
        self._answers()

    def add(self, portion: int, worker: int, factor: float, into: str) -> None:
        """``into`` ← ``into`` + factor · a portion's gradient, as that worker has left it.

        What was moved becomes the vector ``moved``.
        """
        self._all(do="add", portion=portion, worker=worker, factor=factor, into=into)

    def apply(self, rate: float) -> None:
        """Update ``weights`` by ``gradient`` and the shards' own optimizers."""
        self._all(do="apply", rate=rate)
