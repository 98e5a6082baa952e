"""The models of `any_models`, in a process that keeps few examples in memory: only a few batches' at a time."""

from __future__ import annotations

from typing import Any

import any_models
from stratbench.datasets import batches

batches.KEPT_BYTES = batches.WINDOW_BYTES = 4096


def __getattr__(name: str) -> Any:
    return getattr(any_models, name)
