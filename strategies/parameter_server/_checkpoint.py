"""Checkpoints of what the ps tasks hold, saved by worker 0: TensorFlow's own ``Saver`` and ``SessionManager``.

https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/Saver
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from ..base import Restored, Update
from ._count import COUNTER

v1 = tf.compat.v1
errors = tf.errors
LOST = (errors.UnavailableError, errors.AbortedError, errors.FailedPreconditionError, errors.CancelledError)
"""What a session raises when a ps task is gone, is back under its old address, or is back without its variables."""


_KEPT = "kept"
"""File that says how many updates the weights have had that were restored last."""


class Checkpoints:
    """One worker's view: worker 0 saves; every one remembers its updates, to tell how many a restoration undoes.

    Args:
        folder: that worker 0 writes to.
        every: steps of worker 0 from one to the next.
    """

    def __init__(self, folder: Path, every: int):
        self._folder, self._every = folder, every
        self._steps = 0
        self._numbers: list[int] = []

    def build(self) -> None:
        """Make what saves all variables of the graph so far."""
        self._saver = v1.train.Saver(v1.global_variables(), max_to_keep=2)

    def source(self) -> dict[str, Any]:
        """Where ``SessionManager.prepare_session`` finds values, if anything has been saved; others are told which."""
        latest = tf.train.latest_checkpoint(self._folder)
        kept = int(tf.train.load_variable(latest, COUNTER)) if latest else 0
        fresh = self._folder / "kept.new"
        fresh.write_text(str(kept))
        fresh.replace(self._folder / _KEPT)
        return {"saver": self._saver, "checkpoint_dir": str(self._folder)}

    def step(self, session: tf.compat.v1.Session) -> None:
        """A step of worker 0 is over: save, if it is time to. What fails may be repeated."""
        step = self._steps + 1
        if step % self._every == 0:
            self._saver.save(session, str(self._folder / "weights"), global_step=step, write_meta_graph=False)
        self._steps = step

    def note(self, update: Update) -> None:
        """Remember what this worker has pushed."""
        self._numbers.append(update.number)

    def restored(self, by_this: bool, failed: float) -> Restored:
        """What this worker lost, when it goes on after a failure at ``failed`` (monotonic seconds)."""
        kept = int((self._folder / _KEPT).read_text())
        had = len(self._numbers)
        self._numbers = [number for number in self._numbers if number < kept]
        return Restored(kept, had - len(self._numbers), time.monotonic() - failed, by_this)
