"""What the memory of one host allows, beside the transports: see `CopyTransport`. It trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from .._shared.messages import connected
from ..base import Task
from ..transport import Group, Transport
from .allreduce import AllReduce


@dataclasses.dataclass(frozen=True)
class Memory(AllReduce):
    """The processes of `AllReduce`, which only copy."""

    name = "memory"

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Nothing is sent."""
        return 0.0

    def rounds(self, replicas: int) -> int | None:
        """It has none to count."""
        return None

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport]:
        """Copies."""
        from ._transport import CopyTransport

        with connected(task.index) as messages:
            yield CopyTransport(messages)
