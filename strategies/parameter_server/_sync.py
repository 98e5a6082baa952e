"""Bulk-synchronous updates: the servers wait for the gradients of a step, update once, and all workers continue."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import tensorflow as tf

from .._shared.replica import size_bytes
from .._shared.update_rules import Gradient
from ..trainer import Batch, Memory, Update, Workload
from ._graph import compute
from ._lookup import readers
from ._mean import MeanOverWorkers
from ._session import Node
from ._trainer import Advance, PsTrainer, split_of
from ._variables import own_variable, server_of, shared_variable
from ._weights import Shared

v1 = tf.compat.v1


class _RowAccumulator:
    """Adds up gradients that are rows, of which each worker may have others. As TensorFlow's ConditionalAccumulator."""

    def __init__(self, dtype: tf.DType, shape: tf.TensorShape, shared_name: str):
        # Its own mean would be, of each row, over the workers that have this row.
        self._sums = v1.SparseConditionalAccumulator(dtype, shape, shared_name=shared_name, reduction_type="SUM")
        self.set_global_step = self._sums.set_global_step

    def apply_grad(self, gradient: tf.IndexedSlices, local_step: tf.Tensor) -> tf.Operation:
        return self._sums.apply_indexed_slices_grad(gradient, local_step)

    def take_grad(self, number: int) -> tf.IndexedSlices:
        """The mean over so many workers. Each row is there once, as it is in each worker's gradient, in order."""
        total = self._sums.take_indexed_slices_grad(number)
        with tf.device(self._sums.accumulator_ref.device):
            return tf.IndexedSlices(total.values / number, total.indices, total.dense_shape)


class Barrier:
    """Collects a step's gradients: an accumulator for each variable, a clock, a queue of tokens for each worker.

    The clock is the number of updates applied. A gradient belongs to the step whose clock its worker read before the
    weights. A token holds the clock of the step that may begin. Every step needs every member.

    Args:
        place: device of the clock and the queues, a ps task.
        name: different for each barrier of a job.
        members: the workers (or leaves) of this barrier.
        tables: of the variables, those whose gradients are rows.
    """

    def __init__(
        self,
        place: str,
        name: str,
        members: Sequence[int],
        variables: Sequence[tf.Variable],
        tables: Collection[tf.Variable] = (),
    ):
        self.place, self._needed = place, len(members)
        self._clock = shared_variable(f"{name}clock", server_of(place), (), tf.int64)
        self._accumulators = []
        for index, variable in enumerate(variables):
            with tf.device(variable.device):
                by_rows = any(variable is table for table in tables)
                kind = _RowAccumulator if by_rows else v1.ConditionalAccumulator
                self._accumulators.append(
                    kind(variable.dtype, variable.shape, shared_name=f"{name}accumulator_{index}")
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

    def push(
        self, member: int, gradients: Sequence[Gradient], clock: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Operation]]:
        """(the clock when the gradients of ``member`` came, operations that hand them in)."""
        pairs = zip(self._accumulators, gradients, strict=True)
        return clock, [accumulator.apply_grad(gradient, clock) for accumulator, gradient in pairs]

    def wait(self, member: int, clock: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """(the next token of ``member``, whether the step that ended with it counted its gradients).

        Args:
            clock: of the gradients that it pushed before, if it has pushed any.
        """
        with tf.device(self.place):
            return self._tokens[member].dequeue(), tf.constant(True)

    def take(self) -> list[Gradient]:
        """The mean of the gradients of a step, once all those needed have come."""
        return [accumulator.take_grad(self._needed) for accumulator in self._accumulators]

    def open(self) -> tf.Operation:
        """Begin the next step, once its update is applied."""
        later = self.begin() + 1
        # In this order: a worker that sees the new clock must find the accumulators at the new clock.
        with tf.control_dependencies([accumulator.set_global_step(later) for accumulator in self._accumulators]):
            return self._advance(later)

    def _advance(self, later: tf.Tensor) -> tf.Operation:
        """Set the clock, then hand out the tokens."""
        with tf.device(self.place):
            with tf.control_dependencies([later]):
                advanced = self._clock.assign(later, read_value=False)
            with tf.control_dependencies([advanced]):
                return tf.group(*[self._tokens[member].enqueue(self._token(member, later)) for member in self._tokens])

    def _token(self, member: int, later: tf.Tensor) -> list[tf.Tensor]:
        return [later]


def update_forever(barrier: Barrier, shared: Shared) -> tf.Operation:
    """What the first ps task repeats: one update by the mean of a step's gradients."""
    with tf.control_dependencies(shared.apply(barrier.take())):
        return barrier.open()


class SyncTrainer(PsTrainer):
    """Fetches θ, computes g, pushes it to a barrier, waits for the next step. Make it in ``node.device``.

    Args:
        barrier: of this worker.
        nearest: what it reads θ from, in the order of `Shared.weights`.
        told: begins with (number, fetched) of the last update that this worker contributed to; None if the barrier's
            clock counts the updates.
        copies: further variables with the same initial values as the weights.
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
        # One worker sets the rate and the statistics: those of the others are the same.
        super().__init__(node, workload, shared, sets_rate=node.task.index == 0)
        self._accumulate = workload.accumulate
        next_token = barrier.wait(self.rank)
        clock = barrier.begin()
        with tf.control_dependencies([clock]):
            pieces = [weight.read_value() for weight in nearest]
        mean = MeanOverWorkers(self.rank, self.shards)
        read = readers(node.source.model, shared.tables, [clock])
        work = compute(workload, node.source, shared.shards.join(pieces), mean, read)
        moved = shared.move(work.moved) if self.rank == 0 else []
        add, gradients, clear = self._accumulated(shared.trained_shards.cut(work.gradients), shared)
        with tf.control_dependencies(moved):
            now, push = barrier.push(self.rank, gradients, clock)
        with tf.control_dependencies(push), tf.device(barrier.place):
            begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            token, counted = barrier.wait(self.rank, clock)
        with tf.control_dependencies([token]), tf.device(barrier.place):
            waited = tf.timestamp() - begin
            update = [now, clock] if told is None else tf.unstack(told.read_value())[:2]
            counts = tf.stack([tf.cast(each, tf.float64) for each in (clock, token, counted, waited, *update)])
        self.connect(*copies)
        with tf.control_dependencies(push):
            done = tf.group(work.local, *clear())
        self._run = self.session.make_callable([work.loss, counts, work.moments, done], work.feeds)
        adding = tf.group(work.local, *moved, *add)
        self._add = self.session.make_callable([work.loss, work.moments, adding], work.feeds)
        self._next_token = self.session.make_callable(next_token)
        self._updates = workload.total_steps // self._accumulate

    def _accumulated(
        self, gradients: Sequence[Gradient], shared: Shared
    ) -> tuple[list[tf.Operation], Sequence[Gradient], Callable[[], list[tf.Operation]]]:
        """Operations that add the gradients up; the mean that is pushed; those that begin the next sums."""
        if self._accumulate == 1:
            return [], gradients, list
        sums = [own_variable(f"sum_{weight.op.name}", weight) for weight in shared.trained]
        self.memory = Memory(0, size_bytes(sums), self.memory.transient_bytes)
        pairs = list(zip(sums, gradients, strict=True))
        return (
            [total.assign_add(gradient, read_value=False) for total, gradient in pairs],
            [(total.read_value() + gradient) / self._accumulate for total, gradient in pairs],
            lambda: [total.assign(tf.zeros_like(total), read_value=False) for total in sums],
        )

    def advance(self, batch: Batch) -> Advance:
        """See `PsTrainer`. A late worker skips the tokens of the steps that ended without it."""
        begin = time.time()
        if (self._done + 1) % self._accumulate:
            loss, moments, _ = self._add(*tf.nest.flatten(batch))
            return Advance(float(loss), None, split_of(begin, moments))
        loss, (clock, token, counted, waited, number, fetched), moments, _ = self._run(*tf.nest.flatten(batch))
        late = time.perf_counter()
        while token <= clock < self._updates:
            token, counted = self._next_token()
        waited += time.perf_counter() - late
        self.finished = bool(token >= self._updates) and self._accumulate == 1
        update = Update(
            number=int(number),
            fetched=int(fetched),
            staleness=int(number - fetched),
            blocked_seconds=float(waited),
            applied=bool(counted),
        )
        return Advance(float(loss), update, split_of(begin, moments, float(waited)))
