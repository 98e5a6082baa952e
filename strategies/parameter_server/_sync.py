"""Bulk-synchronous updates: the servers wait for the gradients of a step, then update once and let all go on.

With backup workers a step ends with the first N − k gradients, and those that come later are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from ..base import Update, Workload
from ._count import Section
from ._graph import FIRST, Shared, compute, shared_variable
from ._session import Node, PsTrainer

if TYPE_CHECKING:
    import numpy as np

v1 = tf.compat.v1


class Barrier:
    """Where a step's gradients meet: an accumulator beside each variable, a clock, a queue of tokens for each worker.

    The clock is the number of updates applied. A gradient belongs to the step whose clock its worker read before the
    weights, so one of an earlier step is never counted in a later one. A token holds the clock that it lets begin.

    Args:
        place: device of the clock and the queues, a ps task.
        name: tells the barriers of one job apart.
        members: workers (or leaves) that meet here.
        needed: gradients that end a step.
        steps: after so many, none begins.
    """

    def __init__(
        self,
        place: str,
        name: str,
        members: Sequence[int],
        variables: Sequence[tf.Variable],
        needed: int,
        steps: int,
    ):
        self.place, self._needed, self._steps = place, needed, steps
        self._all_needed = needed == len(members)
        server = tf.DeviceSpec.from_string(place).task
        self._clock = shared_variable(f"{name}clock", server, (), tf.int64)
        self._arrived = shared_variable(f"{name}arrived", server, (), tf.int64)
        self._section = Section(f"{name}arrivals", place)
        self._accumulators = []
        for index, variable in enumerate(variables):
            with tf.device(variable.device):
                self._accumulators.append(
                    v1.ConditionalAccumulator(variable.dtype, variable.shape, shared_name=f"{name}accumulator_{index}")
                )
        with tf.device(place):
            self._tokens = {
                member: tf.queue.FIFOQueue(-1, [tf.int64], [()], shared_name=f"{name}tokens_{member}")
                for member in members
            }

    def begin(self) -> tf.Tensor:
        """The clock; read it before the weights."""
        with tf.device(self.place):
            return self._clock.read_value()

    def push(self, gradients: Sequence[tf.Tensor], clock: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Operation]]:
        """(whether the step at ``clock`` counts them, the clock when they came, operations that hand them in)."""
        accepted, now, leave = (
            (tf.constant(True), clock, tf.no_op()) if self._all_needed else self._arrive(gradients, clock)
        )
        # An accumulator drops what is older than its step.
        step = clock if self._all_needed else tf.where(accepted, clock, tf.constant(-1, tf.int64))
        pushes = [
            accumulator.apply_grad(gradient, step)
            for accumulator, gradient in zip(self._accumulators, gradients, strict=True)
        ]
        return accepted, now, [leave, *pushes]

    def _arrive(self, gradients: Sequence[tf.Tensor], clock: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Operation]:
        """Whether this is among the first ``needed`` of its step. A gradient counts for all variables or for none."""

        def enter() -> list[tf.Tensor | tf.Operation]:
            with tf.device(self.place):
                now, room = self._clock.read_value(), self._arrived.read_value() < self._needed
                in_time = tf.equal(now, clock) & room & (clock < self._steps)
                return [in_time, now, self._arrived.assign_add(tf.cast(in_time, tf.int64), read_value=False)]

        (accepted, now, _), leave = self._section.run(enter, after=gradients)
        return accepted, now, leave

    def wait(self, member: int, clock: tf.Tensor | None = None) -> tf.Tensor:
        """The next token of ``member``; ``clock`` itself where that is the end, after which no token comes."""
        with tf.device(self.place):
            if clock is None or self._all_needed:
                return self._tokens[member].dequeue()
            tokens = self._tokens[member].dequeue_many(tf.cast(clock < self._steps, tf.int32))
            return tf.reduce_max(tf.concat([[clock], tokens], 0))

    def take(self) -> list[tf.Tensor]:
        """The mean of the gradients of a step, once as many as needed are there."""
        return [accumulator.take_grad(self._needed) for accumulator in self._accumulators]

    def open(self) -> tf.Operation:
        """Begin the next step: after this, gradients of the former one are late."""

        def advance() -> list[tf.Tensor | tf.Operation]:
            with tf.device(self.place):
                later = self._clock.read_value() + 1
                with tf.control_dependencies([later]):
                    return [
                        later,
                        self._clock.assign_add(1, read_value=False),
                        self._arrived.assign(0, read_value=False),
                    ]

        # In this order: a worker that sees the new clock must find the accumulators at it.
        upcoming = self.begin() + 1
        with tf.control_dependencies([accumulator.set_global_step(upcoming) for accumulator in self._accumulators]):
            (later, *_), leave = self._section.run(advance)
        with tf.control_dependencies([leave]), tf.device(self.place):
            return tf.group(*[tokens.enqueue(later) for tokens in self._tokens.values()])


def meet(workload: Workload, shared: Shared, backup: int) -> Barrier:
    """The one barrier of a job: all workers, at the first ps task."""
    workers = workload.replicas
    return Barrier(FIRST, "", range(workers), shared.trained, workers - backup, workload.total_steps)


def update_forever(barrier: Barrier, shared: Shared) -> tf.Operation:
    """What the first ps task repeats: one update, the mean of the gradients that ended the step."""
    with tf.control_dependencies(shared.apply(barrier.take())):
        return barrier.open()


class SyncTrainer(PsTrainer):
    """Fetches θ, computes g, hands it in at a barrier, waits for the next step. Make it in ``node.device``.

    Args:
        barrier: where this worker meets others.
        nearest: what it reads θ from, in the order of ``model.weights``.
        told: begins with (number, fetched) of the last update that this worker had a part in, where updates are counted
            elsewhere than by the barrier's clock.
        copies: further variables that start as the weights do.
    """

    def __init__(
        self,
        node: Node,
        workload: Workload,
        shared: Shared,
        barrier: Barrier,
        nearest: Sequence[tf.Variable],
        told: tf.Variable | None = None,
        copies: Sequence[Sequence[tf.Variable]] = (),
    ):
        # One worker's rate and statistics do: those of the others are the same.
        super().__init__(node, workload, shared, sets_rate=node.task.index == 0)
        next_token = barrier.wait(self.rank)
        clock = barrier.begin()
        with tf.control_dependencies([clock]):
            values = [weight.read_value() for weight in nearest]
        work = compute(workload, node.source, values)
        with tf.control_dependencies(work.move(shared.weights) if self.rank == 0 else []):
            accepted, now, push = barrier.push(work.gradients, clock)
        with tf.control_dependencies(push), tf.device(barrier.place):
            begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            token = barrier.wait(self.rank, clock)
        with tf.control_dependencies([token]), tf.device(barrier.place):
            waited = tf.timestamp() - begin
            update = [now, clock] if told is None else tf.unstack(told.read_value())[:2]
            counts = tf.stack([tf.cast(each, tf.float64) for each in (clock, token, accepted, waited, *update)])
        self.connect(*copies)
        self._run = self.session.make_callable([work.loss, counts, work.local], [work.x, work.y])
        self._next_token = self.session.make_callable(next_token)
        self._updates = workload.total_steps

    def advance(self, x: np.ndarray, y: np.ndarray) -> tuple[float, Update]:
        """See `PsTrainer`. A late worker passes over the tokens of the steps that ended without it."""
        loss, (clock, token, accepted, waited, number, fetched), _ = self._run(x, y)
        while token <= clock < self._updates:
            token = self._next_token()
        self.finished = bool(token >= self._updates)
        return float(loss), Update(
            number=int(number),
            fetched=int(fetched),
            staleness=int(number - fetched),
            blocked_seconds=float(waited),
            applied=bool(accepted),
        )
