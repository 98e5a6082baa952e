"""Checkpoints of what the ps tasks hold: TensorFlow's own ``Saver`` and ``SessionManager``.

https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/Saver
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ..base import Task
from ..trainer import Restored, Update, Workload
from ._count import COUNTER
from ._ledger import Ledger

v1 = tf.compat.v1


class Checkpoints:
    """One worker's view. The first worker that neither died nor ended leads: it saves and restores.

    What must remain when a worker's process dies is in files: the checkpoints, how many updates each restoration kept,
    and the updates of each worker.

    Args:
        task: this worker.
        every: steps of the leading worker from one checkpoint to the next.
    """

    def __init__(self, task: Task, workload: Workload, every: int):
        self._task, self._every = task, every
        self._folder, self._workers_left = workload.scratch(), workload.workers_left
        self._workers = range(workload.replicas)
        self._restorations = self._folder / "restorations"
        self._ledger = Ledger(self._folder, task.index)
        # This process takes the steps from here on, also those that a former process of this worker has taken.
        self._before: int | None = workload.first_step

    def build(self) -> None:
        """Make what saves all variables of the graph so far."""
        self._saver = v1.train.Saver(v1.global_variables(), max_to_keep=2)

    def leads(self) -> bool:
        """Whether this worker saves and restores."""
        left = set(self._workers_left()) - self.ended()
        return self._task.index == min(left, default=self._task.index)

    def ended(self) -> set[int]:
        """Workers that no longer need the ps tasks."""
        return {worker for worker in self._workers if self._end_of(worker).exists()}

    def source(self) -> dict[str, Any]:
        """Where ``SessionManager.prepare_session`` finds saved values, if there are any.

        Notes for the other workers of which update they are.
        """
        latest = tf.train.latest_checkpoint(self._folder)
        kept = int(tf.train.load_variable(latest, COUNTER)) if latest else 0
        first = not self._restorations.exists()
        with self._restorations.open("ab") as file:
            if not first:
                np.array([kept], np.int64).tofile(file)
        return {"saver": self._saver, "checkpoint_dir": str(self._folder)}

    def save(self, session: tf.compat.v1.Session, steps: int) -> None:
        """Save after so many ``steps`` of this worker, if it is time to. It may be called again after a failure."""
        if steps % self._every == 0 and self.leads():
            # A name of its own for each process: a file of a checkpoint that is in use is never overwritten.
            name = self._folder / f"weights-{self._task.index}-{self._task.attempt}"
            self._saver.save(session, str(name), global_step=steps, write_meta_graph=False)

    def note(self, update: Update, step: int) -> None:
        """Note what this worker has pushed."""
        self._ledger.note(update.number, step)

    def undone(self, seconds: float) -> list[Restored]:
        """What this worker lost by restorations that it has not reported yet, after it waited ``seconds`` for them.

        The leading worker also counts the steps of workers that died and are not restarted.
        """
        restorations = np.fromfile(self._restorations, np.int64)
        new = self._ledger.seen() < len(restorations)
        steps = self._ledger.undo(restorations, self._before)
        self._before = None
        leads = self.leads()
        if leads:
            lost = set(self._workers) - set(self._workers_left())
            steps += sum(Ledger(self._folder, worker).undo(restorations) for worker in lost - {self._task.index})
        if not new and not steps:
            return []
        return [Restored(int(restorations[-1]), steps, seconds, by_this=leads and new)]

    def end(self) -> list[Restored]:
        """This worker no longer needs the ps tasks. Returns what is left to report, of workers that died since."""
        left = self.undone(0.0)
        self._end_of(self._task.index).touch()
        return left

    def _end_of(self, worker: int) -> Any:
        return self._folder / f"ended-{worker}"
