"""Downpour SGD: each replica has its own weights. It fetches and pushes only every few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.replica import size_bytes
from ..trainer import Batch, Memory, Split, Update, Workload
from ._count import Counter, at_servers
from ._graph import compute
from ._session import Node
from ._trainer import Advance, PsTrainer
from ._variables import FIRST, own_variable
from ._weights import share

if TYPE_CHECKING:
    import keras

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
    ):
        self._fetch_every, self._push_every = fetch, push
        self._warm_start = warm_start if workload.replicas > 1 else 0
        self._overlap = overlap
        self._step, self._fetched, self._sent_fetched, self._blocked, self._due = 0, 0, 0, 0.0, False
        self._numbers: list[int] = []
        self._fetching, self._pushing = Beside("fetch"), Beside("push")
        with tf.device(node.device):
            shared = share(workload, node.source, worker=node.task.index, lock=lock)
            super().__init__(node, workload, shared)
            counter = Counter(lock)
            known, places = node.source.model.weights, node.source.places
            self._fixed = [place for place in range(len(known)) if place not in places]
            own = _like("own", known, range(len(known)))
            sums = _like("sum", known, places)
            come = _like("come", known, range(len(known))) if overlap else own
            fetching = self._build_fetch(counter, come)
            adopting = [variable.assign(value.read_value(), read_value=False) for variable, value in _pairs(own, come)]
            work = compute(workload, node.source, [variable.read_value() for variable in own])
            rate = v1.placeholder(tf.float32, ())
            with tf.control_dependencies([*work.gradients, *work.moved.values()]):
                learning = [own[place].assign(value, read_value=False) for place, value in work.moved.items()]
                for place, total, gradient in zip(places, sums, work.gradients, strict=True):
                    descent = own[place].assign_sub(rate * gradient, read_value=False)
                    learning += [descent, total.assign_add(gradient, read_value=False)]
                    if (constraint := known[place].constraint) is not None:
                        with tf.control_dependencies([descent]):
                            bound = constraint(own[place].read_value())
                        learning.append(own[place].assign(bound, read_value=False))
            fixed = [own[place] for place in self._fixed]
            sent = _like("sent", known, [*places, *self._fixed]) if overlap else []
            stashing = _moved([*sums, *fixed], sent, cleared=sums)
            pushing = self._build_push(counter, sent or [*sums, *fixed], cleared=[] if overlap else sums)
            with tf.device(FIRST):
                warm = tf.queue.FIFOQueue(-1, [tf.bool], [()], shared_name="warm")
                warmed, wait = warm.enqueue_many([tf.fill([workload.replicas - 1], True)]), tf.group(warm.dequeue())
                with tf.control_dependencies([(began := tf.timestamp())]), tf.control_dependencies([wait]):
                    waited = tf.timestamp() - began
        self.memory = Memory(size_bytes(own), 0, size_bytes([*sums, *sent, *(come if overlap else [])]))
        self.connect()
        run = self.session.make_callable
        self._take, self._send, self._warmed, self._wait = run(fetching), run(pushing), run(warmed), run(waited)
        self._adopt, self._stash = run(tf.group(*adopting)), run(stashing)
        self._learn = run([work.loss, tf.group(work.local, *learning)], [*work.feeds, rate])

    def _build_fetch(self, counter: Counter, own: list[tf.Variable]) -> list[tf.Tensor | tf.Operation]:
        fetched, pieces, leave = counter.fetch(self._shared.weights)
        values = self._shared.shards.join(pieces)
        taken = [variable.assign(value, read_value=False) for variable, value in zip(own, values, strict=True)]
        return [fetched, tf.group(leave, *taken)]

    def _build_push(
        self, counter: Counter, values: Sequence[tf.Variable], cleared: Sequence[tf.Variable]
    ) -> list[tf.Tensor | tf.Operation]:
        """Push sums and this replica's moving statistics, then set ``cleared`` to zero."""
        shared, fixed_shards = self._shared, self._shared.shards.only(self._fixed)
        trained = len(values) - len(self._fixed)
        read = [each.read_value() for each in values]
        pieces = [*shared.trained_shards.cut(read[:trained]), *fixed_shards.cut(read[trained:])]
        fixed = [each for number, each in enumerate(shared.weights) if number not in shared.places]
        placed = at_servers(pieces, [*shared.trained, *fixed])
        gradients, statistics = placed[: len(shared.trained)], placed[len(shared.trained) :]

        def apply() -> list[tf.Operation]:
            moves = [each.assign(value, read_value=False) for each, value in _pairs(fixed, statistics)]
            return [*shared.apply(gradients), *moves]

        number, leave = counter.push(placed, apply)
        with tf.control_dependencies([leave]):
            zero = [total.assign(tf.zeros_like(total), read_value=False) for total in cleared]
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
        loss, _ = self._learn(*tf.nest.flatten(batch), self._learning_rate)
        computing = time.perf_counter() - computing
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


class Beside:
    """One call at a time in a thread of its own."""

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, name)
        self._call: Future[Any] | None = None

    def begin(self, call: Callable[[], Any]) -> None:
        """Call it now. The one before must have ended, and its result been taken."""
        self._call = self._pool.submit(call)

    @property
    def free(self) -> bool:
        """Whether there is neither a call nor a result."""
        return self._call is None

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return self._call is not None and self._call.done()

    def wait(self) -> None:
        """For the call, if there is one; its result is dropped."""
        if self._call:
            self.result()

    def result(self) -> Any:
        """Of the call, or what it raised."""
        assert self._call is not None
        call, self._call = self._call, None
        return call.result()


def _like(name: str, weights: Sequence[keras.Variable], places: Iterable[int]) -> list[tf.Variable]:
    """Own variables as these weights."""
    return [own_variable(f"{name}_{place}_{weights[place].path}", weights[place]) for place in places]


def _pairs(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(one, other, strict=True))


def _moved(values: Sequence[tf.Variable], into: Sequence[tf.Variable], cleared: Sequence[tf.Variable]) -> tf.Operation:
    """Copy the values, and set some of them to zero then; nothing if there is no place for them."""
    if not into:
        return tf.no_op()
    with tf.control_dependencies([to.assign(each.read_value(), read_value=False) for to, each in _pairs(into, values)]):
        return tf.group(*[total.assign(tf.zeros_like(total), read_value=False) for total in cleared])
