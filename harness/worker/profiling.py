"""``--profile``: what TensorFlow's profiler records of some steps of a worker, and what the strategy's library does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...strategies.trainer import Recorder


class TensorFlowRecorder:
    """TensorFlow's own profiler, as ``tensorboard --logdir`` reads it with the plug-in tensorboard-plugin-profile.

    Source: ``tf.profiler.experimental``.
    """

    def start(self, folder: Path) -> None:
        """Record from now on."""
        import tensorflow as tf

        tf.profiler.experimental.start(str(folder))

    def stop(self) -> None:
        """Write what was recorded to the folder."""
        import tensorflow as tf

        tf.profiler.experimental.stop()


class Profiler:
    """Records so many steps of this worker, once, and is told of each step that is over.

    Args:
        steps: to record.
        folder: for what is recorded; created when it starts.
        recorders: all are started before the first of these steps, and stopped after the last one.
    """

    def __init__(self, steps: int, folder: Path, recorders: Sequence[Recorder]) -> None:
        self.steps, self.folder = steps, folder
        self._recorders = recorders
        self._running: list[Recorder] = []

    def between(self, done: int, first: int) -> None:
        """A step is over.

        Args:
            done: number of the next step.
            first: of the first step to record.
        """
        if done == first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for recorder in self._recorders:
                recorder.start(self.folder)
                self._running.append(recorder)
        elif done == first + self.steps:
            self.stop()

    def stop(self) -> None:
        """End what still runs, as where training ended before."""
        while self._running:
            self._running.pop().stop()
