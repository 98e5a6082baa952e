"""Runs first in every Python process that has this folder in PYTHONPATH: makes each step longer, by sleeping.

The environment says where, and by how many seconds: ``TEST_PLANT=input:0.002`` or ``communicating:0.002``.
The second is for the strategy ``allreduce``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

VARIABLE = "TEST_PLANT"


def _plant_input(seconds: float) -> None:
    from stratbench.datasets.batches import Batches

    epoch = Batches.epoch

    def slow(self: Batches, number: int) -> Iterator[Any]:
        for batch in epoch(self, number):
            time.sleep(seconds)
            yield batch

    Batches.epoch = slow  # type: ignore[method-assign]


def _plant_communicating(seconds: float) -> None:
    from stratbench.strategies.reductions._reduce import Reduce

    mean = Reduce._mean

    def slow(self: Reduce, vector: Any) -> Any:
        time.sleep(seconds)
        return mean(self, vector)

    Reduce._mean = slow  # type: ignore[method-assign]


if os.environ.get(VARIABLE):
    where, _, seconds = os.environ[VARIABLE].partition(":")
    {"input": _plant_input, "communicating": _plant_communicating}[where](float(seconds))
