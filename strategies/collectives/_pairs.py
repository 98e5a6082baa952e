"""Weights of two processes are averaged, while both go on with their steps."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Self

import numpy as np

from .._shared.messages import Messages, connected
from ..base import THIS_HOST

_POLL_SECONDS = 0.1
_ADDRESS_BYTES = 300
"""More than a host's name and a port have."""


def actives(size: int) -> list[int]:
    """The ranks that begin exchanges; the others answer. Two of one kind never meet, so none waits for another."""
    return list(range(0, size, 2))


@contextmanager
def connections(hvd: ModuleType) -> Iterator[Messages]:
    """Between all processes of Horovod's job, which tell one another where they listen."""
    import tensorflow as tf

    host = os.environ.get("HOROVOD_HOSTNAME", THIS_HOST if hvd.local_size() == hvd.size() else socket.gethostname())
    with socket.create_server((host, 0), backlog=hvd.size()) as listener:
        own = f"{host}:{listener.getsockname()[1]}".encode().ljust(_ADDRESS_BYTES)
        found = hvd.allgather(tf.constant([list(own)], tf.uint8), name="addresses").numpy()
        addresses = [bytes(each).decode().rstrip() for each in found]
        with connected(hvd.rank(), addresses, listener) as messages:
            yield messages


class Pairs:
    """This process's weights, which it and its partners change.

    Args:
        weights: as one vector.
    """

    def __init__(self, messages: Messages, weights: np.ndarray):
        self._messages = messages
        self._weights, self._other = weights.copy(), np.empty_like(weights)
        self._lock = threading.Lock()
        self._partners = [each for each in range(messages.size) if each % 2 != messages.rank % 2]
        self._active = messages.rank in actives(messages.size) and bool(self._partners)
        self._random = np.random.default_rng(messages.rank)
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(1, "pairs")
        self._beside: Future[None] | None = None

    def __enter__(self) -> Self:
        """One that is not active answers from now on."""
        if not self._active:
            self._beside = self._pool.submit(self._answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Call it when no process begins an exchange any more."""
        self._ended.set()
        self._pool.shutdown(wait=error is None)

    def begin(self) -> np.ndarray:
        """The weights that a step begins with. An active process exchanges its own from now on."""
        before = self.weights()
        if self._active:
            self._beside = self._pool.submit(self._exchange, int(self._random.choice(self._partners)))
        return before

    def add(self, change: np.ndarray) -> None:
        """Add what the step has learned, after its exchange. Raises what went wrong beside it."""
        if self._beside and (self._active or self._beside.done()):
            self._beside.result()
        with self._lock:
            self._weights += change

    def weights(self) -> np.ndarray:
        """As they are now."""
        with self._lock:
            return self._weights.copy()

    def _exchange(self, partner: int) -> None:
        # Nobody else changes these weights until the step's end.
        self._messages.send(partner, self._weights)
        self._messages.receive(partner, self._other)
        with self._lock:
            self._weights[:] = self._other

    def _answer(self) -> None:
        while not self._ended.is_set():
            for partner in self._messages.waiting(self._partners, _POLL_SECONDS):
                self._messages.receive(partner, self._other)
                with self._lock:
                    self._weights += self._other
                    self._weights *= 0.5
                    np.copyto(self._other, self._weights)
                self._messages.send(partner, self._other)
