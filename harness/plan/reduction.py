"""What ``stratbench allreduce`` runs: one frozen `ReductionSpec` for each transport and number of replicas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...results.raw.record import strategy_title
from ...strategies import registry as strategies
from ...strategies.base import Strategy, Task
from ...strategies.reductions._memory import Memory
from .task import NoPlace, task_labels

WARMUPS = 2
_MOVED_BYTES = 2**28
"""By the measured reductions of one size, about, within the limits on their number."""
FEWEST = 5
MEMORY = Memory.name
"""In place of a strategy's name: the processes only copy."""
VALUE_BYTES = 4
"""float32, as gradients are."""

Shape = tuple[int, ...]


class Case(BaseModel):
    """Tensors that are reduced together: one vector, or those of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: str
    shapes: tuple[Shape, ...]
    iterations: int

    @property
    def sizes_bytes(self) -> list[int]:
        """Of each tensor."""
        return [VALUE_BYTES * math.prod(shape) for shape in self.shapes]

    @property
    def size_bytes(self) -> int:
        """S, of one process."""
        return sum(self.sizes_bytes)


class ReductionSpec(BaseModel):
    """The reductions of one transport. ``options`` holds the strategy's that differ from the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str
    options: dict[str, Any] = Field(default_factory=dict)
    replicas: int
    cases: tuple[Case, ...]
    cores_per_replica: int
    timeout: float

    @property
    def title(self) -> str:
        """``allreduce algorithm=ring``."""
        return strategy_title(self.strategy, self.options)

    @property
    def copies(self) -> bool:
        """Whether nothing is reduced, only copied."""
        return self.strategy == MEMORY

    @property
    def per_replica_batch(self) -> None:
        """There are no examples."""
        return None

    def create_strategy(self) -> Strategy:
        """The strategy with these options."""
        return Memory() if self.copies else strategies.create(self.strategy, self.options)

    def skip(self) -> str | None:
        """Why this can't be measured here, in one sentence; None if it can."""
        strategy = self.create_strategy()
        if not strategy.transports:
            able = ", ".join(name for name, cls in strategies.available().items() if cls.transports)
            return f"{self.strategy} has no all-reduce that can be measured by itself; use one of {able}"
        return strategy.skip_transport() or strategy.skip(self.replicas)

    def labels(self) -> list[str]:
        """Of the tasks that it will have."""
        return task_labels(self._tasks())

    def workers(self) -> list[str]:
        """Of those tasks, the labels of the ones that reduce."""
        return task_labels([task for task in self._tasks() if not task.serves])

    def _tasks(self) -> list[Task]:
        return self.create_strategy().tasks(self.replicas, NoPlace())


def sizes(smallest: int, largest: int, factor: int) -> list[int]:
    """``smallest``, ``smallest`` · ``factor``, …, in whole values; the last one is no larger than ``largest``."""
    found = []
    size = smallest
    while size <= largest:
        found.append(size)
        size *= factor
    return found


def case(tensors: str, shapes: tuple[Shape, ...], most: int) -> Case:
    """With as many reductions as move about 256 MiB: at least 5, at most ``most``."""
    size = VALUE_BYTES * sum(map(math.prod, shapes))
    return Case(tensors=tensors, shapes=shapes, iterations=max(FEWEST, min(most, _MOVED_BYTES // size)))


def read(path: Path) -> ReductionSpec:
    """The spec that the launcher wrote to the folder."""
    return ReductionSpec.model_validate_json(path.read_text())
