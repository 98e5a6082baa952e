"""Copies of the weights that the tasks save while they train, and the evaluation reads after training.

``step-N.npz`` holds all weights after N steps. Where they are spread over tasks, each task saves its own, as
``step-N.worker-R.npz``. The arrays are named by their position in ``model.weights``.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RunError

POLL_SECONDS = 0.05
LOAD_SECONDS = 60.0
"""How long the evaluation waits for what other tasks save: all have finished their last step by then."""
_DIGEST_BYTES = 6
_PATIENCE = 10
"""How many times as long as writing to nowhere it may take until a file is seen, which over a network may be late."""
_SHORT_SECONDS = 0.0005


def digest(weights: Sequence[np.ndarray]) -> str:
    """Hexadecimal digits that are other ones for weights that differ in any bit."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for weight in weights:
        found.update(np.ascontiguousarray(weight).tobytes())
    return found.hexdigest()


def save(
    folder: Path, done: int, rank: int, weights: Sequence[np.ndarray | None], reports: bool, again: bool, meets: bool
) -> None:
    """Save what this process has to save, if anything.

    Args:
        done: steps of this process until now.
        rank: of this process.
        weights: as `stratbench.strategies.trainer.Trainer.weights` gives them.
        reports: whether this process is the one that saves weights that all hold.
        again: whether a file that is there already is replaced.
        meets: whether this process meets the one that saves in its next step, and then would wait for it on the clock.
    """
    held: dict[str, Any] = {str(position): weight for position, weight in enumerate(weights) if weight is not None}
    whole = len(held) == len(weights)
    path = folder / (f"step-{done}.npz" if whole else f"step-{done}.worker-{rank}.npz")
    if whole and not reports:
        if meets:
            _rest(path, held)
        return
    if not held:
        return
    if not again and path.exists():
        return
    # Under another name first: a process that dies meanwhile leaves no part of a file.
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, **held)
    fresh.replace(path)


class _Nowhere(io.RawIOBase):
    """A file that keeps nothing. That of the system always tells 0 as its place, which a zip file can't have."""

    def write(self, data: Any) -> int:
        """All of it."""
        return memoryview(data).nbytes


def _rest(path: Path, held: Mapping[str, Any]) -> None:
    """For as long as another process saves the same arrays: until the file can be seen, or it should be there."""
    begin = time.monotonic()
    np.savez(_Nowhere(), **held)
    latest = begin + _PATIENCE * (time.monotonic() - begin)
    while not path.exists() and time.monotonic() < latest:
        time.sleep(_SHORT_SECONDS)


def steps(folder: Path) -> list[int]:
    """After how many there are copies, in order."""
    return sorted({int(path.name.split(".")[0].removeprefix("step-")) for path in folder.glob("step-*.npz")})


def load(folder: Path, done: int, count: int) -> list[np.ndarray]:
    """All ``count`` weights after so many steps. Waits until each task that holds some has saved them.

    Raises RunError if some are missing after `LOAD_SECONDS`.
    """
    deadline = time.monotonic() + LOAD_SECONDS
    while True:
        found: dict[int, np.ndarray] = {}
        for path in folder.glob(f"step-{done}.*npz"):
            with np.load(path) as saved:
                found |= {int(name): saved[name] for name in saved.files}
        if len(found) == count:
            return [found[position] for position in range(count)]
        if time.monotonic() > deadline:
            missing = sorted(set(range(count)) - found.keys())
            raise RunError(
                f"every weight must be saved by a task that holds it. Received: none for {missing} after {done} steps."
            )
        time.sleep(POLL_SECONDS)


def remove(folder: Path) -> None:
    """Delete all copies, and incomplete files of processes that died."""
    for path in folder.glob("step-*.n*"):
        path.unlink(missing_ok=True)


def remove_old(folder: Path, rank: int) -> None:
    """Delete what this worker saved in an earlier attempt at the same run."""
    for path in folder.glob(f"step-*.worker-{rank}.n*"):
        path.unlink(missing_ok=True)
