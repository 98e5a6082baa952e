"""What the strategies have in common that cut a model into parts."""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le, MaxLen

from ...errors import UsageError
from .._shared.devices import skip_for_gpus
from ..base import Place, Strategy, Task, option
from ..trainer import Server, Trainer, Workload
from ._tasks import tasks_of

if TYPE_CHECKING:
    import keras

    from ._schedule import Schedule


@dataclasses.dataclass(frozen=True)
class CutModel(Strategy):
    """Layers over tasks. A derived class says how many micro-batches there are, and their schedule."""

    needs = "one free TCP port a replica"
    delays_parts = True
    new_models = True
    tries_models = True
    fixed_batch = True

    parts: Annotated[int, Ge(0), Le(4096)] = option(
        0, "parts of the model; with fewer than replicas, there are several copies. 0: as many as replicas"
    )
    cut: Annotated[str, MaxLen(4096)] = option(
        "", "layers after which the model is cut, as a+b; by default the parts take equally long"
    )

    def __post_init__(self) -> None:
        """Raises UsageError for another number of parts than there are layers to cut after."""
        if self._names and self.parts not in (0, len(self._names) + 1):
            raise UsageError(
                f"option parts of strategy {self.name} must be {len(self._names) + 1}, or left out, as cut={self.cut} "
                f"gives so many. Received: {self.parts}."
            )

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in re.split("[+,]", self.cut) if name.strip()]

    @property
    @abstractmethod
    def _passes(self) -> tuple[int, Schedule]:
        """Micro-batches, and their schedule."""

    def _parts(self, replicas: int) -> int:
        return len(self._names) + 1 if self._names else self.parts or replicas

    def skip(self, replicas: int) -> str | None:
        """Copies have equally many parts."""
        parts = self._parts(replicas)
        if replicas % parts:
            return f"{replicas} replicas can't be divided into copies of {parts} parts; ask for a multiple of {parts}"
        return skip_for_gpus(replicas)

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """One that computes by code of its own, or has too few layers, or not those of ``cut``."""
        return skip_uncut(model, self._parts(replicas), self._names)

    def skip_batch(self, global_batch: int, replicas: int) -> str | None:
        """Micro-batches are of one size."""
        copies, micro_batches = replicas // self._parts(replicas), self._passes[0]
        if global_batch % (copies * micro_batches):
            shares = f"{micro_batches} micro-batches" + (f" of {copies} copies" if copies > 1 else "")
            return f"a global batch of {global_batch} can't be divided into {shares}; use a multiple of it"
        return None

    def divides(self, replicas: int) -> bool:
        """Into micro-batches, and among copies; parts share one loss."""
        return self._passes[0] * (replicas // self._parts(replicas)) > 1

    def skip_normaliser(self) -> str | None:
        """The counts of all micro-batches are not known when the first one's loss is computed."""
        return (
            "its loss is a mean over what a mask leaves, or over sample weights, which micro-batches and copies "
            "of a cut model do not exchange; use one of each, as model-parallel does, or horovod"
        )

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """Worker 0, which drives, and a task for each other part."""
        return tasks_of(replicas, place)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """A server in each task; the graph is worker 0's."""
        from ._cluster import PartServer, start
        from ._driver import CutTrainer, Layout

        node = start(task, workload)
        if task.serves:
            yield PartServer(task, workload, bool(workload.delays))
            return
        parts = self._parts(workload.replicas)
        micro_batches, schedule = self._passes
        layout = Layout(workload.replicas // parts, parts, self._names, micro_batches, schedule)
        yield CutTrainer(node, workload, layout)


def skip_uncut(model: keras.Model, parts: int, names: Sequence[str] = ()) -> str | None:
    """Why a model can't be cut into so many parts, or after the layers of these names; None if it can."""
    from ._calls import calls_of
    from ._where import check, named_places

    try:
        calls = calls_of(model)
        if names:
            named_places(calls, names)
        else:
            check(calls, parts)
    except UsageError as error:
        return f"model {model.name} can't be cut: {error}"
    return None
