"""Push and pull as `stratbench allreduce` measures them: every worker adds to sums on the servers, then reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..transport import Transport
from ._session import Member, Sessions
from ._shards import Shards
from ._variables import FIRST, own_variable, shared_variable

v1 = tf.compat.v1
_TURNS = 3
"""Sums are kept in three places: one is added to, one may still be read, and one is set to zero for the next sum."""


class PsTransport(Transport):
    """One ``Session.run`` a sum: add, wait until all have added, read.

    Args:
        workers: how many there are.
        servers: over which the tensors are spread as a model's weights are.
    """

    def __init__(self, member: Member, workers: int, servers: int):
        self.rank = member.task.index
        self._member, self._workers, self._servers = member, workers, servers
        self._prepared = 0
        self._session: tf.compat.v1.Session | None = None

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        """See `Transport.prepare`."""
        self._prepared += 1
        if self._session:
            self._session.close()
        with tf.Graph().as_default(), tf.device(self._member.device):
            given = [v1.placeholder(each.dtype, each.shape) for each in tensors]
            shards = Shards.of([each.shape for each in tensors], self._servers)
            sums = [self._sums(tensors, shards, turn) for turn in range(_TURNS)]
            # They stay in this task, and are not fed anew for each sum.
            own = [own_variable(f"own_{number}", each) for number, each in enumerate(tensors)]
            fill = [variable.assign(each, read_value=False) for variable, each in zip(own, given, strict=True)]
            turns = [self._turn(own, shards, sums[turn], sums[(turn + 1) % _TURNS], turn) for turn in range(_TURNS)]
            init = tf.group(*[each.initializer for each in v1.global_variables()])
            session = Sessions(self._member, init, {}).open(lambda: self.rank == 0)
            session.run(fill, dict(zip(given, tensors, strict=True)))
            calls = [session.make_callable(turn) for turn in turns]
        self._session, done = session, 0

        def reduce() -> Sequence[np.ndarray]:
            nonlocal done
            done += 1
            return calls[(done - 1) % _TURNS]()

        return reduce

    def _sums(self, tensors: Sequence[np.ndarray], shards: Shards, turn: int) -> list[tf.Variable]:
        return [
            shared_variable(f"sum_{self._prepared}_{turn}_{number}", piece.server, shape, tensors[place].dtype)
            for number, (place, piece, shape) in enumerate(shards)
        ]

    def _turn(
        self,
        own: Sequence[tf.Variable],
        shards: Shards,
        sums: Sequence[tf.Variable],
        following: Sequence[tf.Variable],
        turn: int,
    ) -> list[Any]:
        """Add to ``sums``, wait, read them."""
        added: list[tf.Operation] = []
        for total, mine in zip(sums, shards.cut([each.read_value() for each in own]), strict=True):
            with tf.device(total.device):
                added.append(total.assign_add(mine, read_value=False))
        for total in following if self.rank == 0 else ():
            # All have read it: rank 0 met them after that, in the turn before this one.
            with tf.device(total.device):
                added.append(total.assign(tf.zeros(total.shape, total.dtype), read_value=False))
        with tf.device(FIRST):
            queues = [
                tf.queue.FIFOQueue(-1, [tf.bool], [()], shared_name=f"met_{self._prepared}_{turn}_{worker}")
                for worker in range(self._workers)
            ]
            with tf.control_dependencies(added):
                told = [queue.enqueue(True) for queue in queues]
            with tf.control_dependencies(told):
                met = queues[self.rank].dequeue_many(self._workers)
        with tf.control_dependencies([met]):
            return shards.join([total.read_value() for total in sums])
