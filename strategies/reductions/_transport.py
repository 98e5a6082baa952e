"""An algorithm, and the memory of the host, as `stratbench allreduce` measures them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .._shared.messages import Messages
from ..transport import Transport
from ._algorithms import barrier
from ._reduce import algorithm_of


class MessageTransport(Transport):
    """One of the algorithms; several tensors are reduced one after the other."""

    def __init__(self, messages: Messages, algorithm: str):
        self.rank = messages.rank
        self._messages = messages
        self._sum = algorithm_of(messages, algorithm)

    @property
    def rounds(self) -> int:
        """See `Transport`."""
        return self._messages.rounds

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        """See `Transport.prepare`. The sums have memory of their own, as a library's do."""
        sums = [np.empty(each.size, each.dtype) for each in tensors]

        def reduce() -> Sequence[np.ndarray]:
            for total, tensor in zip(sums, tensors, strict=True):
                np.copyto(total, tensor.reshape(-1))
                self._sum(total)
            return sums

        return reduce


class CopyTransport(Transport):
    """No all-reduce: each process copies its tensors, all at about the same time.

    An all-reduce reads every tensor and writes a sum of that size in every process. So on one host none is faster.
    """

    def __init__(self, messages: Messages):
        self.rank = messages.rank
        self._messages = messages

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        """See `Transport.prepare`."""
        copies = [np.empty_like(each) for each in tensors]
        barrier(self._messages)

        def copy() -> Sequence[np.ndarray]:
            for target, tensor in zip(copies, tensors, strict=True):
                np.copyto(target, tensor)
            return copies

        return copy
