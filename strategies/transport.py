"""What a strategy exchanges: in messages and bytes, and as ``stratbench allreduce`` measures it without a model."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What one step exchanges, as the α–β model counts it: seconds = α · ``messages`` + β · bytes.

    Source: Hockney, *The communication challenge for MPP*, 1994; Thakur, Rabenseifner & Gropp, *Optimization of
    Collective Communication Operations in MPICH*, 2005.

    Attributes:
        messages: of which each waits for the one before.
        weights: what passes through the busiest link, one after the other, divided by the bytes of the weights.
        waits: whether a step is over for all when it is over for the slowest worker.
        hides: whether it may go on beside computing.
        local: whether it is within one process, so that no network decides how long it takes.
        in_turn: whether two replicas may send one after the other, as two processes do in Gloo's all-gather of long
            messages; more of them use both directions of their links at the same time.
    """

    messages: float
    weights: float
    waits: bool = True
    hides: bool = False
    local: bool = False
    in_turn: bool = False

    def scaled(self, share: float) -> Exchange:
        """Of a step, if only that share of the steps exchanges."""
        return dataclasses.replace(self, messages=self.messages * share, weights=self.weights * share)


def ring_exchange(replicas: int, hides: bool = False) -> Exchange:
    """Of one ring all-reduce: 2(N−1) messages, of 1/N each."""
    return Exchange(2.0 * (replicas - 1), 2.0 * (replicas - 1) / replicas, hides=hides)


def copies(replicas: int) -> Exchange:
    """Within a process, to one device and back: each other replica's gradients, then their sum or new weights."""
    return Exchange(2.0 * (replicas > 1), 2.0 * (replicas - 1), local=True)


class Group(Protocol):
    """The processes that reduce together. A `stratbench.strategies.trainer.Workload` is one, too."""

    @property
    def replicas(self) -> int:
        """How many."""

    @property
    def cores_per_replica(self) -> int:
        """Of each."""


class Transport(ABC):
    """All-reduce over all replicas, in one worker, once it is connected.

    Attributes:
        rank: of this process; of its first replica, if it has several.
    """

    rank: int

    @property
    def rounds(self) -> int | None:
        """How many times it has sent, received, or both at once, so far; None where a library does it."""
        return None

    @abstractmethod
    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[Any]]:
        """Make ready to reduce these tensors, again and again. All processes call it with the same shapes.

        Args:
            tensors: ``rank`` + 1 everywhere. Each further replica of this process has its own rank + 1 in its place.

        Returns:
            What reduces once. It returns the sums over all replicas, for ``np.asarray``, when they are there; on GPUs
            too, which otherwise go on by themselves.
        """
