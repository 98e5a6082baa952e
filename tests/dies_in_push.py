"""A model for tests: loading it makes worker 1 kill itself within a push, at the moment that `VARIABLE` names."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import keras
import numpy as np
import softmax_regression
import tensorflow as tf
from stratbench.harness.plan.task import current_task
from stratbench.strategies.parameter_server._backup import BackupBarrier

VARIABLE = "TEST_DIES_IN_PUSH"
STEP = 10


class Dying(BackupBarrier):
    """A barrier that a worker dies at. The graph of the death is made where the worker's own operations are."""

    def push(
        self, member: int, gradients: Sequence[tf.Tensor], clock: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Operation]]:
        moment, half = os.environ[VARIABLE], len(gradients) // 2
        if moment == "half written":
            rows, self._rows = self._rows, self._rows[:half]
            written = self._write(member, gradients[:half])
            self._rows = rows[half:]
            with tf.control_dependencies([_die(clock, written)]):
                written += self._write(member, gradients[half:])
            self._rows = rows
        else:
            written = self._write(member, gradients)
        with tf.control_dependencies([_die(clock, written)] if moment == "written" else written):
            now, announced = self._announce(member, clock)
        return now, [_die(clock, announced)] if moment == "announced" else announced


def _die(clock: tf.Tensor, after: Sequence[tf.Operation]) -> tf.Operation:
    def kill(clock: np.ndarray) -> np.ndarray:
        if clock >= STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return clock

    with tf.control_dependencies(after):
        return tf.numpy_function(kill, [clock], tf.int64).op


def model(shape: tuple[int, ...], classes: int) -> keras.Model:
    """See `softmax_regression.model`."""
    if current_task()[0].label == "worker-1":
        BackupBarrier.push = Dying.push
    return softmax_regression.model(shape, classes)
