"""Counts updates on the first ps task, so that staleness is measured and never assumed; and the lock that makes a fetch
or an update of all weights atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from .._shared.update_rules import Gradient
from ._variables import FIRST, read, shared_variable

COUNTER = "updates"
"""Name of the variable that counts them."""


class Section:
    """A critical section. A task that dies inside it leaves it.

    Args:
        name: tasks that give the same name exclude each other.
        place: device of the lock.
    """

    def __init__(self, name: str, place: str = FIRST):
        self._place = place
        with tf.device(place):
            self._mutex = tf.raw_ops.MutexV2(container="", shared_name=name)

    def run(
        self, body: Callable[[], Sequence[tf.Tensor | tf.Operation]], after: Sequence[tf.Tensor | tf.Operation] = ()
    ) -> tuple[Sequence[tf.Tensor | tf.Operation], tf.Operation]:
        """(what ``body`` returned, the operation that leaves the section). ``after`` is computed before it."""
        with tf.device(self._place), tf.control_dependencies(after):
            lock = tf.raw_ops.MutexLock(mutex=self._mutex)
        with tf.control_dependencies([lock]):
            made = body()
        with tf.device(self._place), tf.control_dependencies(made):
            leave = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
        return made, leave


class Counter:
    """How many updates have been applied, by all workers.

    Args:
        lock: whether a fetch, and an update, of all weights is atomic. Without it (Hogwild; Recht et al., NIPS 2011)
            only the counting is, so a fetch may contain a part of an update that is counted later.
    """

    def __init__(self, lock: bool):
        self._lock = lock
        self._section = Section("updates")
        self._updates = shared_variable(COUNTER, 0, (), tf.int64)

    def fetch(self, weights: Sequence[tf.Variable]) -> tuple[tf.Tensor, list[tf.Tensor], tf.Operation]:
        """(updates applied before, the weights' values on their servers, another operation to run)."""

        def take() -> list[tf.Tensor]:
            before = self._read()
            with tf.control_dependencies([before]):
                return [before, *[read(weight) for weight in weights]]

        made, leave = self._section.run(take) if self._lock else (take(), tf.no_op())
        return made[0], list(made[1:]), leave

    def push(
        self, gradients: Sequence[Gradient], apply: Callable[[], Sequence[tf.Operation]]
    ) -> tuple[tf.Tensor, tf.Operation]:
        """(number of this update, another operation to run), once the gradients are at their servers."""

        def count() -> tuple[tf.Tensor, tf.Operation]:
            number = self._read()
            with tf.control_dependencies([number]), tf.device(FIRST):
                return number, self._updates.assign_add(1, read_value=False)

        def update() -> Sequence[tf.Tensor | tf.Operation]:
            with tf.control_dependencies(apply()):
                return count()

        if self._lock:
            made, leave = self._section.run(update, after=gradients)
        else:
            made, leave = self._section.run(count, after=apply())
        return made[0], leave

    def _read(self) -> tf.Tensor:
        with tf.device(FIRST):
            return self._updates.read_value()


def at_servers(gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[Gradient]:
    """The gradients on their variables' devices: a lock that is taken afterwards is not held during the transfer."""
    placed = []
    for gradient, variable in zip(gradients, variables, strict=True):
        with tf.device(variable.device):
            placed.append(tf.nest.map_structure(tf.identity, gradient, expand_composites=True))
    return placed
