"""Copies of the weights that the tasks save after each epoch, and the evaluation reads after training.

``epoch-N.npz`` holds all weights. Where they are spread over tasks, each task saves its own, as
``epoch-N.worker-R.npz``. The arrays are named by their position in ``model.weights``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

POLL_SECONDS = 0.05


def save(folder: Path, epoch: int, rank: int, weights: Sequence[np.ndarray | None], reports: bool, again: bool) -> None:
    """Save what this process has to save, if anything.

    Args:
        rank: of this process.
        weights: as `stratbench.strategies.trainer.Trainer.weights` gives them.
        reports: whether this process is the one that saves weights that all hold.
        again: whether a file that is there already is replaced.
    """
    held: dict[str, Any] = {str(position): weight for position, weight in enumerate(weights) if weight is not None}
    whole = len(held) == len(weights)
    if not reports if whole else not held:
        return
    path = folder / (f"epoch-{epoch}.npz" if whole else f"epoch-{epoch}.worker-{rank}.npz")
    if not again and path.exists():
        return
    # Under another name first: a process that dies meanwhile leaves no part of a file.
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, **held)
    fresh.replace(path)


def epochs(folder: Path) -> list[int]:
    """Those that have copies, in order."""
    return sorted({int(path.name.split(".")[0].removeprefix("epoch-")) for path in folder.glob("epoch-*.npz")})


def load(folder: Path, epoch: int, count: int) -> list[np.ndarray]:
    """All ``count`` weights after an epoch. Waits until each task that holds some has saved them."""
    while True:
        found: dict[int, np.ndarray] = {}
        for path in folder.glob(f"epoch-{epoch}.*npz"):
            with np.load(path) as saved:
                found |= {int(name): saved[name] for name in saved.files}
        if len(found) == count:
            return [found[position] for position in range(count)]
        time.sleep(POLL_SECONDS)


def remove(folder: Path) -> None:
    """Delete all copies, and what a process left that died while it saved one."""
    for path in folder.glob("epoch-*.n*"):
        path.unlink()
