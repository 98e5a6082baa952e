"""Synchronous updates with backup workers: a step ends with the first N − k gradients; later ones are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ..trainer import Workload
from ._sync import Barrier
from ._variables import FIRST, server_of, shared_variable, staging_variable
from ._weights import Shared


class BackupBarrier(Barrier):
    """A barrier where a worker may come late, or die.

    A worker first writes its gradients to rows of its own, beside the variables. Then it announces them, by one
    operation on one ps task. The ps task that updates chooses the first ``needed`` announcements of a step, reads only
    the rows of these workers, and tells each worker whether it was chosen. So the gradients of a worker count for all
    variables or for none, whenever it dies.

    Args:
        place: device of the clock and the queues, a ps task.
        members: the workers of this barrier; the rows are in their order.
        needed: gradients that end a step.
        steps: in all; after the last one, no step begins.
    """

    def __init__(self, place: str, members: Sequence[int], variables: Sequence[tf.Variable], needed: int, steps: int):
        self.place, self._needed, self._steps = place, needed, steps
        self._clock = shared_variable("clock", server_of(place), (), tf.int64)
        self._rows = [staging_variable(variable, len(members)) for variable in variables]
        with tf.device(place):
            self._announced = tf.queue.FIFOQueue(-1, [tf.int64] * 2, [()] * 2, shared_name="announced")
            self._tokens = {
                member: tf.queue.FIFOQueue(-1, [tf.int64, tf.bool], [()] * 2, shared_name=f"tokens_{member}")
                for member in members
            }

    def push(
        self, member: int, gradients: Sequence[tf.Tensor], clock: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Operation]]:
        """See `Barrier.push`."""
        with tf.control_dependencies(self._write(member, gradients)):
            return self._announce(member, clock)

    def _write(self, member: int, gradients: Sequence[tf.Tensor]) -> list[tf.Operation]:
        written = []
        for rows, gradient in zip(self._rows, gradients, strict=True):
            with tf.device(rows.device):
                written.append(tf.raw_ops.ResourceScatterUpdate(resource=rows.handle, indices=member, updates=gradient))
        return written

    def _announce(self, member: int, clock: tf.Tensor) -> tuple[tf.Tensor, list[tf.Operation]]:
        now = self.begin()
        with tf.device(self.place), tf.control_dependencies([now]):
            return now, [self._announced.enqueue([tf.constant(member, tf.int64), clock])]

    def wait(self, member: int, clock: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Barrier.wait`. At the last step no token comes, and ``clock`` is returned instead."""
        with tf.device(self.place):
            if clock is None:
                token, counted = self._tokens[member].dequeue()
                return token, counted
            tokens, counted = self._tokens[member].dequeue_many(tf.cast(clock < self._steps, tf.int32))
            return tf.reduce_max(tf.concat([[clock], tokens], 0)), tf.reduce_any(counted)

    def take(self) -> list[tf.Tensor]:
        """See `Barrier.take`."""
        self._chosen = self._choose()
        means = []
        for rows in self._rows:
            with tf.device(rows.device):
                means.append(tf.reduce_mean(rows.sparse_read(self._chosen), 0))
        return means

    def open(self) -> tf.Operation:
        """See `Barrier.open`. Its tokens say which members `take`, which is built first, has chosen."""
        return self._advance(self.begin() + 1)

    def _choose(self) -> tf.Tensor:
        """The first ``needed`` members that announce gradients of this step, as they come. (needed,), int64."""
        with tf.device(self.place):
            clock = self.begin()

            places = tf.range(self._needed)

            def another(count: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                member, of = self._announced.dequeue()
                in_time = tf.equal(of, clock) & (of < self._steps)
                return count + tf.cast(in_time, tf.int32), tf.where(in_time & tf.equal(places, count), member, chosen)

            _, chosen = tf.while_loop(
                lambda count, chosen: count < self._needed,
                another,
                (tf.constant(0), tf.fill([self._needed], tf.constant(-1, tf.int64))),
            )
            return chosen

    def _token(self, member: int, later: tf.Tensor) -> list[tf.Tensor]:
        return [later, tf.reduce_any(tf.equal(self._chosen, member))]


def meet(workload: Workload, shared: Shared, backup: int) -> Barrier:
    """The barrier of all workers, at the first ps task. With backup workers, no gradients are rows."""
    workers = range(workload.replicas)
    if not backup:
        return Barrier(FIRST, "", workers, shared.trained, shared.tables.values())
    return BackupBarrier(FIRST, workers, shared.trained, len(workers) - backup, workload.total_steps)
