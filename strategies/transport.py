"""What ``stratbench allreduce`` measures of a strategy: its all-reduce, without a model around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


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
        rank: of this process.
    """

    rank: int

    @property
    def rounds(self) -> int | None:
        """How many times it has sent, received, or both at once, so far; None where a library does it."""
        return None

    @abstractmethod
    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[Any]]:
        """Make ready to reduce these tensors, again and again. All processes call it with the same shapes.

        Returns:
            What reduces once. It returns the sums over all processes, for ``np.asarray``, when they are there; on GPUs
            too, which otherwise go on by themselves.
        """
