"""Asynchronous updates, with or without a bound on how far ahead a worker may be (stale synchronous parallel)."""

from __future__ import annotations

import time

import tensorflow as tf

from ..trainer import Batch, Update, Workload
from ._count import Counter, Section, at_servers
from ._graph import compute
from ._lookup import readers
from ._session import Node
from ._trainer import Advance, PsTrainer, split_of
from ._variables import FIRST, shared_variable
from ._weights import share


class AsyncTrainer(PsTrainer):
    """Fetches θ, computes g and pushes it, in one ``Session.run``; the servers apply it at once.

    Args:
        lock: see `Counter`.
        bound: steps that a worker may be ahead of the slowest one; None for no bound.
        checkpoint_every: see `PsTrainer`.
    """

    def __init__(self, node: Node, workload: Workload, lock: bool, bound: int | None, checkpoint_every: int):
        with tf.device(node.device):
            shared = share(workload, node.source, worker=node.task.index, lock=lock)
            super().__init__(node, workload, shared, checkpoint_every=checkpoint_every)
            counter = Counter(lock)
            fetched, pieces, fetch = counter.fetch(shared.weights)
            read = readers(node.source.model, shared.tables, [fetched])
            work = compute(workload, node.source, shared.shards.join(pieces), read=read)
            gradients = at_servers(shared.trained_shards.cut(work.gradients), shared.trained)
            number, push = counter.push(gradients, lambda: [*shared.apply(gradients), *shared.move(work.moved)])
            counts = [fetched, number]
            if bound is not None:
                with tf.control_dependencies([push]):
                    counts += Clocks(self.rank, self.shards).tick(bound)
            with tf.device(FIRST):
                # One tensor: each tensor that is sent costs about the same time, however small it is.
                told = tf.stack([tf.cast(count, tf.float64) for count in counts])
        self._fetches = [work.loss, told, work.moments, tf.group(fetch, push, work.local)]
        self._inputs = work.feeds
        self.connect()
        self._let_on = (0, 0.0) if bound is not None else (None, 0.0)

    def bind(self) -> None:
        """See `PsTrainer`."""
        super().bind()
        self._run = self.session.make_callable(self._fetches, self._inputs)

    def advance(self, batch: Batch) -> Advance:
        """See `PsTrainer`. The bound was checked at the end of the step before."""
        begin = time.time()
        loss, (fetched, number, *let_on), moments, _ = self._run(*tf.nest.flatten(batch))
        slowest, blocked = self._let_on
        if let_on:
            self._let_on = int(let_on[0]), float(let_on[1])
        update = Update(
            number=int(number),
            fetched=int(fetched),
            staleness=int(number - fetched),
            slowest_clock=slowest,
            blocked_seconds=blocked,
        )
        return Advance(float(loss), update, split_of(begin, moments, float(let_on[1]) if let_on else 0.0))


class Clocks:
    """Every worker's clock, which counts the steps that it has finished, and the tokens that let workers continue.

    The slowest clock rises by one at a time, and with each rise every worker gets a token. A worker at clock c that has
    taken c − s tokens knows that no clock is below c − s.
    """

    def __init__(self, worker: int, workers: int):
        self._worker = worker
        self._section = Section("clocks")
        self._clocks = shared_variable("clocks", 0, (workers,), tf.int64)
        with tf.device(FIRST):
            self._tokens = [
                tf.queue.FIFOQueue(-1, [tf.int64], [()], shared_name=f"tokens_{worker}") for worker in range(workers)
            ]

    def tick(self, bound: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Advance this worker's clock, and wait while it is more than ``bound`` ahead of the slowest.

        Returns:
            The slowest clock when the worker was allowed to continue, and the seconds that it waited.
        """
        with tf.device(FIRST):
            (own, *told), leave = self._section.run(self._advance)
            with tf.control_dependencies([leave, *told]):
                begin = tf.timestamp()
            with tf.control_dependencies([begin]):
                tokens = self._tokens[self._worker].dequeue_many(tf.cast(own > bound, tf.int32))
            with tf.control_dependencies([tokens]):
                return tf.reduce_min(self._clocks.read_value()), tf.timestamp() - begin

    def _advance(self) -> list[tf.Tensor | tf.Operation]:
        """[own clock, operations that enqueue the tokens]."""
        before = tf.reduce_min(self._clocks.read_value())
        with tf.control_dependencies([before]):
            ticked = tf.raw_ops.ResourceScatterAdd(
                resource=self._clocks.handle, indices=self._worker, updates=tf.constant(1, tf.int64)
            )
        with tf.control_dependencies([ticked]):
            clocks = self._clocks.read_value()
        # One token if the slowest clock has risen, else none.
        rise = tf.fill([tf.reduce_min(clocks) - before], before + 1)
        return [clocks[self._worker], *[tokens.enqueue_many([rise]) for tokens in self._tokens]]
