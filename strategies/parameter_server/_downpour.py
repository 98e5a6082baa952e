"""Downpour SGD: each replica has its own weights. It fetches and pushes only every few steps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from ..cut._traffic import bytes_of, task_of
from ..trainer import Batch, Split, Update, Workload
from ._beside import Beside
from ._count import Counter, at_servers
from ._replica import Parted, Whole
from ._session import Node
from ._trainer import Advance, PsTrainer
from ._variables import FIRST, own_variable, read
from ._weights import share

v1 = tf.compat.v1


class DownpourTrainer(PsTrainer):
    """Every ``fetch`` steps it takes θ from the servers; every ``push`` steps it sends them the sum of its gradients.

    In between it updates its own weights by plain gradient descent, θ_i ← θ_i − η·g. With ``overlap`` it goes on with
    its steps meanwhile: it takes θ when it has come, and adds gradients to the next sum while one is sent.

    Args:
        lock: see `Counter`.
        fetch, push: n_fetch and n_push, in steps.
        warm_start: steps that worker 0 takes before the others begin.
        overlap: whether fetches and pushes go on beside the steps.
        parts: tasks over which the model of each worker is cut.
    """

    def __init__(
        self,
        node: Node,
        workload: Workload,
        lock: bool,
        fetch: int,
        push: int,
        warm_start: int,
        overlap: bool,
        parts: int,
    ):
        self._fetch_every, self._push_every = fetch, push
        self._warm_start = warm_start if workload.replicas > parts else 0
        self._overlap = overlap
        self._step, self._fetched, self._sent_fetched, self._blocked, self._due = 0, 0, 0, 0.0, False
        self._numbers: list[int] = []
        self._fetching, self._pushing = Beside("fetch"), Beside("push")
        self._replica = replica = Parted(node, workload, parts) if parts > 1 else Whole(node, workload)
        with tf.device(node.device):
            shared = share(workload, node.source, worker=node.task.index, lock=lock)
            super().__init__(node, workload, shared, workers=workload.replicas // parts)
            counter = Counter(lock)
            known, places = node.source.model.weights, node.source.places
            everywhere = range(len(known))
            self._fixed = [place for place in everywhere if place not in places]
            own, sums = self._like("own", everywhere), self._like("sum", places)
            come = self._like("come", everywhere) if overlap else own
            fetching = self._build_fetch(counter, come)
            adopting = [_set(variable, read(value)) for variable, value in _pairs(own, come)]
            work = replica.compute(own)
            rate = v1.placeholder(tf.float32, ())
            learning = [_set(own[place], value, replica.over[place]) for place, value in work.moved.items()]
            for place, total, gradient in zip(places, sums, work.gradients, strict=True):
                with tf.device(own[place].device), tf.control_dependencies([replica.over[place]]):
                    descent = own[place].assign_sub(rate * gradient, read_value=False)
                    learning += [descent, total.assign_add(gradient, read_value=False)]
                if (constraint := known[place].constraint) is not None:
                    with tf.device(own[place].device), tf.control_dependencies([descent]):
                        learning.append(own[place].assign(constraint(own[place].read_value()), read_value=False))
            fixed = [own[place] for place in self._fixed]
            sent = self._like("sent", [*places, *self._fixed]) if overlap else []
            stashing = _moved([*sums, *fixed], sent, cleared=sums)
            pushing = self._build_push(counter, sent or [*sums, *fixed], cleared=[] if overlap else sums)
            warmed, waited = self._build_warm_start()
        if parts > 1:
            step = [work.loss, work.moments, work.local, *learning]
            self.traffic_bytes = self._own_traffic([(step, 1), (fetching, fetch), (pushing, push)])
        self.notes = replica.notes
        self.connect()
        self.memory = replica.held([own, [*sums, *sent, *(come if overlap else [])]])
        run = self.session.make_callable
        self._take, self._send, self._warmed, self._wait = run(fetching), run(pushing), run(warmed), run(waited)
        self._adopt, self._stash = run(tf.group(*adopting)), run(stashing)
        self._learn = run([work.loss, work.moments, tf.group(work.local, *learning)], [*work.feeds, rate])

    def _like(self, name: str, places: Iterable[int]) -> list[tf.Variable]:
        """Own variables as these weights, where the replica has them."""
        made, weights = [], self._node.source.model.weights
        for place in places:
            with tf.device(self._replica.devices[place]):
                made.append(own_variable(f"{name}_{place}_{weights[place].path}", weights[place]))
        return made

    def _own_traffic(self, calls: Iterable[tuple[Sequence[Any], int]]) -> float | None:
        """Of all workers in a step, without what other parts exchange with the ps tasks; None if it is not known.

        Args:
            calls: what is fetched, and every how many steps.
        """
        here = task_of(self._node.device)
        found = [(bytes_of(here, fetched, here), every) for fetched, every in calls]
        sizes = [size / every for size, every in found if size is not None]
        return self.shards * sum(sizes) if len(sizes) == len(found) else None

    def _build_warm_start(self) -> tuple[tf.Operation, tf.Tensor]:
        """(lets the others begin, waits for that and tells how many seconds it took)."""
        with tf.device(FIRST):
            warm = tf.queue.FIFOQueue(-1, [tf.bool], [()], shared_name="warm")
            warmed, wait = warm.enqueue_many([tf.fill([self.shards - 1], True)]), tf.group(warm.dequeue())
            with tf.control_dependencies([(began := tf.timestamp())]), tf.control_dependencies([wait]):
                return warmed, tf.timestamp() - began

    def _build_fetch(self, counter: Counter, own: list[tf.Variable]) -> list[tf.Tensor | tf.Operation]:
        fetched, pieces, leave = counter.fetch(self._shared.weights)
        values = self._shared.shards.join(pieces, self._replica.devices)
        return [fetched, tf.group(leave, *[_set(variable, value) for variable, value in _pairs(own, values)])]

    def _build_push(
        self, counter: Counter, values: Sequence[tf.Variable], cleared: Sequence[tf.Variable]
    ) -> list[tf.Tensor | tf.Operation]:
        """Push sums and this replica's moving statistics, then set ``cleared`` to zero."""
        shared, fixed_shards = self._shared, self._shared.shards.only(self._fixed)
        trained = len(values) - len(self._fixed)
        found = [read(each) for each in values]
        pieces = [*shared.trained_shards.cut(found[:trained]), *fixed_shards.cut(found[trained:])]
        fixed = [each for number, each in enumerate(shared.weights) if number not in shared.places]
        placed = at_servers(pieces, [*shared.trained, *fixed])
        gradients, statistics = placed[: len(shared.trained)], placed[len(shared.trained) :]

        def apply() -> list[tf.Operation]:
            moves = [each.assign(value, read_value=False) for each, value in _pairs(fixed, statistics)]
            return [*shared.apply(gradients), *moves]

        number, leave = counter.push(placed, apply)
        with tf.control_dependencies([leave]):
            zero = list(map(_clear, cleared))
        return [number, tf.group(leave, *zero)]

    def advance(self, batch: Batch) -> Advance:
        """See `PsTrainer`. After the last step it pushes what is left."""
        begin, waited = time.perf_counter(), 0.0
        if self._step == 0 and self._warm_start and self.rank:
            waited = self._blocked = float(self._wait())
        # What one worker does for all is there before the others begin.
        beside = self._overlap and (bool(self.rank) or self._step >= self._warm_start)
        self._fetch(beside)
        computing = time.perf_counter()
        loss, moments, _ = self._learn(*tf.nest.flatten(batch), *self._replica.delays(), self._learning_rate)
        computing, waited_inside = self._replica.split(time.perf_counter() - computing, moments)
        waited += waited_inside
        self._step += 1
        self._due |= self._step % self._push_every == 0
        left = self._total - self._done - 1
        update = self._push_beside(left) if beside and left else self._push() if self._due or not left else None
        if self._warm_start and not self.rank and self._step == self._warm_start:
            self._warmed()
        communicating = time.perf_counter() - begin - computing - waited
        return Advance(float(loss), update, Split(computing, communicating, waited))

    def _fetch(self, beside: bool) -> None:
        """Begin a fetch if it is time, and take what has come."""
        due = self._step % self._fetch_every == 0
        if not beside or not self._step:
            if due:
                self._fetched = int(self._take()[0])
                if self._overlap:
                    self._adopt()
            return
        if self._fetching.ended:
            self._fetched = int(self._fetching.result()[0])
            self._adopt()
        if due and self._fetching.free:
            self._fetching.begin(self._take)

    def _push(self) -> Update:
        self._due = False
        if self._overlap:
            self._fetching.wait()
            self._stash()
        return self._pushed(self._fetched, int(self._send()[0]))

    def _push_beside(self, left: int) -> Update | None:
        """What has become of the push before, once it has ended; by the last step, which pushes by itself, it has.

        Args:
            left: steps after this one.
        """
        update = None
        if self._pushing.ended or (left == 1 and not self._pushing.free):
            update = self._pushed(self._sent_fetched, int(self._pushing.result()[0]))
        if self._due and self._pushing.free and left > 1:
            self._due, self._sent_fetched = False, self._fetched
            self._stash()
            self._pushing.begin(self._send)
        return update

    def _pushed(self, fetched: int, number: int) -> Update:
        own = sum(each >= fetched for each in self._numbers)
        self._numbers = [each for each in self._numbers if each >= self._fetched] + [number]
        blocked, self._blocked = self._blocked, 0.0
        return Update(number, fetched, number - fetched - own, blocked_seconds=blocked)


def _set(variable: tf.Variable, value: tf.Tensor, *after: tf.Operation) -> tf.Operation:
    """Assign it, where the variable is."""
    with tf.device(variable.device), tf.control_dependencies(after):
        return variable.assign(value, read_value=False)


def _clear(variable: tf.Variable) -> tf.Operation:
    with tf.device(variable.device):
        return variable.assign(tf.zeros(variable.shape, variable.dtype), read_value=False)


def _pairs(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(one, other, strict=True))


def _moved(values: Sequence[tf.Variable], into: Sequence[tf.Variable], cleared: Sequence[tf.Variable]) -> tf.Operation:
    """Copy the values, and set some of them to zero then; nothing if there is no place for them."""
    if not into:
        return tf.no_op()
    with tf.control_dependencies([_set(to, read(each)) for to, each in _pairs(into, values)]):
        return tf.group(*map(_clear, cleared))
