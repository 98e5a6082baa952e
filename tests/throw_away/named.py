"""Work whose batches are dictionaries of arrays, one of them in another dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from stratbench.harness.worker.workload import SpecWorkload


class NamedWorkload(SpecWorkload):
    """The same examples as in `SpecWorkload`, of which no strategy sees a tuple (x, y)."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.empty_batch = named(self.empty_batch)

    def inputs(self, batch: Any) -> Any:
        return super().inputs(unnamed(batch))

    def unpack(self, batch: Any) -> Any:
        return super().unpack(unnamed(batch))

    def batches(self, *shards: int) -> Any:
        return NamedBatches(super().batches(*shards))

    def in_order(self, rows: np.ndarray, size: int) -> Iterator[Any]:
        return map(named, super().in_order(rows, size))


class NamedBatches:
    def __init__(self, inner: Any):
        self._inner = inner
        self.steps_per_epoch = inner.steps_per_epoch

    @property
    def order(self) -> Any:
        return self._inner.order

    def load(self) -> None:
        self._inner.load()

    def epoch(self, number: int) -> Iterator[Any]:
        return map(named, self._inner.epoch(number))


def named(batch: Any) -> dict[str, Any]:
    x, y = batch
    return {"targets": y, "features": {"image": x}}


def unnamed(batch: Any) -> Any:
    return batch["features"]["image"], batch["targets"]
