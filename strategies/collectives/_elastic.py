"""Training continues with fewer processes when one dies: Horovod's elastic mode.

When a collective fails, the remaining processes form a new job, take the weights of the process with the most updates,
and repeat the step. Source: https://horovod.readthedocs.io/en/stable/elastic_include.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from ..trainer import Batch, Restored, StepResult, Trainer
from ._collective import broadcast

if TYPE_CHECKING:
    import keras

    from .._shared.replica import KerasTrainer

FAILED = (tf.errors.UnknownError, tf.errors.InternalError, tf.errors.AbortedError, tf.errors.FailedPreconditionError)
"""What a Horovod operation raises in TensorFlow when another process is gone."""


class ElasticTrainer(Trainer):
    """The steps of ``inner``, which continue when another process dies.

    Args:
        variables: that are the same in all processes.
    """

    def __init__(
        self,
        inner: KerasTrainer,
        hvd: ModuleType,
        variables: Sequence[keras.Variable],
    ):
        self.rank, self.memory = inner.rank, inner.memory
        self.shards, self.shard, self.count = inner.shards, inner.shard, inner.count
        self._inner, self._hvd, self._variables = inner, hvd, variables
        self._updates, self._last = 0, StepResult(None, 0)

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        failed: float | None = None
        while True:
            try:
                done = failed is not None and self._meet_again()
                # If others had finished the step without this process, its loss is not known: the last one is given.
                result = self._last if done else self._inner.step(batch, learning_rate)
            except FAILED:
                failed = failed or time.monotonic()
                continue
            self._updates += 1
            self._last = result
            if failed is not None:
                first = self._hvd.rank() == 0
                self.restored = [*self.restored, Restored(self._updates - 1, 0, time.monotonic() - failed, first)]
            return result

    def _meet_again(self) -> bool:
        """Whether the weights include the step that failed here, because another process had finished it."""
        self._hvd.shutdown()
        self._hvd.init()
        updates = self._hvd.allgather(tf.constant([self._updates], tf.int64)).numpy()
        broadcast(self._hvd, self._variables, root=int(np.argmax(updates)))
        return self._updates < updates.max()

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        return self._inner.logs()

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._inner.weights()
