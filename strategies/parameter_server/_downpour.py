"""Downpour SGD: each replica has its own weights. It fetches and pushes only every few steps."""

from __future__ import annotations

import tensorflow as tf

from .._shared.replica import size_bytes
from ..trainer import Batch, Memory, Update, Workload
from ._count import Counter, at_servers
from ._graph import FIRST, compute, own_variable, share
from ._session import Node
from ._trainer import PsTrainer

v1 = tf.compat.v1


class DownpourTrainer(PsTrainer):
    """Every ``fetch`` steps it takes θ from the servers; every ``push`` steps it sends them the sum of its gradients.

    In between it updates its own weights by plain gradient descent, θ_i ← θ_i − η·g.

    Args:
        servers: how many ps tasks hold weights.
        lock: see `Counter`.
        fetch, push: n_fetch and n_push, in steps.
        warm_start: steps that worker 0 takes before the others begin.
    """

    def __init__(
        self,
        node: Node,
        workload: Workload,
        servers: int,
        lock: bool,
        fetch: int,
        push: int,
        warm_start: int,
    ):
        self._fetch_every, self._push_every = fetch, push
        self._warm_start = warm_start if workload.replicas > 1 else 0
        self._step, self._fetched, self._pushed_since, self._blocked = 0, 0, 0, 0.0
        with tf.device(node.device):
            shared = share(workload, node.source, range(servers), worker=node.task.index, lock=lock)
            super().__init__(node, workload, shared)
            counter = Counter(lock)
            own = [own_variable("own", weight) for weight in shared.weights]
            sums = [own_variable("sum", weight) for weight in shared.trained]
            fetching = self._build_fetch(counter, own)
            work = compute(workload, node.source, [variable.read_value() for variable in own])
            rate = v1.placeholder(tf.float32, ())
            with tf.control_dependencies([*work.gradients, *work.moved.values()]):
                learning = [*work.move(own), work.local]
                for place, total, gradient in zip(shared.places, sums, work.gradients, strict=True):
                    learning.append(own[place].assign_sub(rate * gradient, read_value=False))
                    learning.append(total.assign_add(gradient, read_value=False))
            pushing = self._build_push(counter, own, sums)
            with tf.device(FIRST):
                warm = tf.queue.FIFOQueue(-1, [tf.bool], [()], shared_name="warm")
                warmed, wait = warm.enqueue_many([tf.fill([workload.replicas - 1], True)]), tf.group(warm.dequeue())
                with tf.control_dependencies([(began := tf.timestamp())]), tf.control_dependencies([wait]):
                    waited = tf.timestamp() - began
        self.memory = Memory(size_bytes(own), 0, size_bytes(sums))
        self.connect()
        run = self.session.make_callable
        self._take, self._send, self._warmed, self._wait = run(fetching), run(pushing), run(warmed), run(waited)
        self._learn = run([work.loss, tf.group(*learning)], [*work.feeds, rate])

    def _build_fetch(self, counter: Counter, own: list[tf.Variable]) -> list[tf.Tensor | tf.Operation]:
        fetched, values, leave = counter.fetch(self._shared.weights)
        taken = [variable.assign(value, read_value=False) for variable, value in zip(own, values, strict=True)]
        return [fetched, tf.group(leave, *taken)]

    def _build_push(
        self, counter: Counter, own: list[tf.Variable], sums: list[tf.Variable]
    ) -> list[tf.Tensor | tf.Operation]:
        """Push the sums and this replica's moving statistics, then set the sums to zero."""
        shared = self._shared
        gradients = at_servers([total.read_value() for total in sums], shared.trained)
        fixed = [place for place in range(len(own)) if place not in shared.places]
        values = at_servers([own[place].read_value() for place in fixed], [shared.weights[place] for place in fixed])

        def apply() -> list[tf.Operation]:
            moves = [shared.weights[p].assign(v, read_value=False) for p, v in zip(fixed, values, strict=True)]
            return [*shared.apply(gradients), *moves]

        number, leave = counter.push([*gradients, *values], apply)
        with tf.control_dependencies([leave]):
            cleared = [total.assign(tf.zeros_like(total), read_value=False) for total in sums]
        return [number, tf.group(leave, *cleared)]

    def advance(self, batch: Batch) -> tuple[float, Update | None]:
        """See `PsTrainer`. After the last step it pushes what is left."""
        if self._step == 0 and self._warm_start and self.rank:
            self._blocked = float(self._wait())
        if self._step % self._fetch_every == 0:
            self._fetched, self._pushed_since = int(self._take()[0]), 0
        loss, _ = self._learn(*tf.nest.flatten(batch), self._learning_rate)
        self._step += 1
        update = None
        if self._step % self._push_every == 0 or self._done + 1 == self._total:
            update = self._push()
        if self._warm_start and not self.rank and self._step == self._warm_start:
            self._warmed()
        return float(loss), update

    def _push(self) -> Update:
        number = int(self._send()[0])
        stale = number - self._fetched - self._pushed_since
        self._pushed_since += 1
        blocked, self._blocked = self._blocked, 0.0
        return Update(number, self._fetched, stale, blocked_seconds=blocked)
