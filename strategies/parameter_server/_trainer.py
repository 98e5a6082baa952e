"""Shared by the workers of all modes: a session, a learning rate, recovery from the death of a ps task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import tensorflow as tf

from .._shared.devices import gpus
from .._shared.replica import size_bytes
from .._shared.rows import row_bytes
from ..trainer import Batch, Memory, Split, StepResult, Trainer, Update, Workload, examples_of
from ._checkpoint import Checkpoints
from ._session import LOST, POLL_SECONDS, Node, Sessions
from ._source import Source
from ._variables import FIRST, shared_variable
from ._weights import Shared

if TYPE_CHECKING:
    import numpy as np

v1 = tf.compat.v1
T = TypeVar("T")


class Advance(NamedTuple):
    """A step of a worker: its loss, what happened to its update, and where its seconds went."""

    loss: float
    update: Update | None
    split: Split | None = None


def split_of(begin: float, moments: np.ndarray, waited: float = 0.0) -> Split:
    """Of a step that is over now.

    Args:
        begin: Unix seconds.
        moments: see `Pass.moments`.
        waited: seconds in which the worker waited for others, with its gradients pushed.
    """
    fetched, computed = moments.tolist()
    fetching, rest = fetched - begin, time.time() - fetched - waited
    # Nothing that is pushed needs the second moment: it may be taken while the worker waits already.
    computing = min(computed - fetched, rest)
    return Split(computing, fetching + rest - computing, waited)


class PsTrainer(Trainer):
    """A worker's session. Each mode derives from it, and builds its graph before it connects.

    Args:
        sets_rate: whether this worker sets the learning rate.
        checkpoint_every: steps between checkpoints, from which all continue when a ps task died; 0 for none.
        workers: how many there are; by default one for each replica.
    """

    def __init__(
        self,
        node: Node,
        workload: Workload,
        shared: Shared,
        sets_rate: bool = True,
        checkpoint_every: int = 0,
        workers: int | None = None,
    ):
        self._node = node
        self.rank = self.shard = node.task.index
        self.shards = workers or workload.replicas
        self._workers_left = workload.workers_left
        self._done, self._total = workload.first_step, workload.total_steps
        self.finished = self._done >= self._total
        self._connected, self._failed = False, 0.0
        self._on_cpus = not gpus()
        self._shared = shared
        self._sets_rate = sets_rate
        self._learning_rate: float | None = None
        self._set_sizes(node.source)
        ended = shared_variable("ended", 0, (self.shards,), tf.int32)
        with tf.device(FIRST):
            self._end = tf.raw_ops.ResourceScatterUpdate(resource=ended.handle, indices=self.rank, updates=1)
            self._ended = ended.read_value()
        self._checkpoints = Checkpoints(node.task, workload, checkpoint_every) if checkpoint_every else None

    def _set_sizes(self, source: Source) -> None:
        """What is held in transit, and what is sent if only rows of some weights are."""
        model, tables = source.model, source.tables
        # At most: ids that repeat are sent once.
        rows = sum(row_bytes(ids, model.trainable_variables[place]) for place, ids in tables.items())
        whole = size_bytes([each for place, each in enumerate(model.trainable_variables) if place not in tables])
        # Those that are cut are put together.
        joined = size_bytes([model.weights[place] for place in source.shards.cut_places])
        self.memory: Memory = Memory(
            0, 0, size_bytes(model.weights) - size_bytes(model.trainable_variables) + whole + rows + joined
        )
        if tables:
            self.sparse = [model.trainable_variables[place].path for place in tables]
            self.traffic_bytes = 2.0 * self.shards * (whole + rows)

    def connect(self, *copies: Sequence[tf.Variable]) -> None:
        """Open the session. One worker initializes the variables of the graph so far; the others wait until it has.

        Args:
            copies: further variables with the same initial values as the weights, in the order of `Shared.weights`.
        """
        shards = self._shared.shards
        reads = shards.join([variable.read_value() for variable in self._shared.weights])
        values = shards.cut(self._node.source.weights)
        pairs = [pair for variables in (self._shared.weights, *copies) for pair in zip(variables, values, strict=True)]
        placeholders = [v1.placeholder(variable.dtype, variable.shape) for variable, _ in pairs]
        start = [
            variable.assign(placeholder, read_value=False)
            for (variable, _), placeholder in zip(pairs, placeholders, strict=True)
        ]
        given = {id(variable) for variable, _ in pairs}
        rest = [variable.initializer for variable in v1.global_variables() if id(variable) not in given]
        self._reads = reads
        feeds = dict(zip(placeholders, [value for _, value in pairs], strict=True))
        if self._checkpoints:
            self._checkpoints.build()
        self._sessions = Sessions(self._node, tf.group(*start, *rest), feeds)
        self._through(lambda: None)
        if not self._checkpoints:
            self._sessions.forget()
            self._node.source.weights.clear()

    def _open(self) -> None:
        begin = self._failed or time.monotonic()
        if self._checkpoints:
            self.session = self._sessions.open(self._checkpoints.leads, self._checkpoints.source)
            # Before the next update: only updates until now can be undone.
            self.restored = [*self.restored, *self._checkpoints.undone(time.monotonic() - begin)]
        else:
            self.session = self._sessions.open(lambda: self.rank == 0)
        self.bind()
        if self.finished:
            self.session.run(self._end)
        self._connected, self._failed = True, 0.0

    def bind(self) -> None:
        """Make the functions that each step calls, for the session that is open now."""
        self._learning_rate = None
        self._read = self.session.make_callable(self._reads)
        self._set_rate = self.session.make_callable(self._shared.set_learning_rate, [self._shared.learning_rate])

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        loss, update, split = self._through(lambda: self._step_once(batch, learning_rate))
        self._done += 1
        self.finished |= self._done >= self._total
        if self.finished:
            self._through(lambda: self.session.run(self._end))
        elif self._checkpoints:
            self._through(self._save)
        return StepResult(loss, examples_of(batch), update, split if self._on_cpus else None)

    def _step_once(self, batch: Batch, learning_rate: float) -> Advance:
        if self._sets_rate and learning_rate != self._learning_rate:
            self._set_rate(learning_rate)
        self._learning_rate = learning_rate
        found = self.advance(batch)
        if self._checkpoints and found.update:
            self._checkpoints.note(found.update, self._done)
        return found

    def _save(self) -> None:
        if self._checkpoints:
            self._checkpoints.save(self.session, self._done)

    def _through(self, act: Callable[[], T]) -> T:
        """Call ``act``; if a ps task died, again with a new session. Without checkpoints that death ends the run."""
        while True:
            try:
                if not self._connected:
                    self._open()
                return act()
            except LOST:
                if not self._checkpoints:
                    raise
                self._connected, self._failed = False, self._failed or time.monotonic()
                time.sleep(POLL_SECONDS)

    def advance(self, batch: Batch) -> Advance:
        """One step of the mode."""
        raise NotImplementedError

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`. After the last step it waits for the last updates of the other remaining workers."""
        while self.finished and not self._all_ended():
            time.sleep(POLL_SECONDS)
        weights = self._through(lambda: self._read())
        if self.finished and self._checkpoints:
            self.restored = [*self.restored, *self._checkpoints.end()]
        return weights

    def _all_ended(self) -> bool:
        flags = self._through(lambda: self.session.run(self._ended))
        ended = {worker for worker, flag in enumerate(flags) if flag}
        if self._checkpoints:
            # These do not set their flags again after a restoration.
            ended |= self._checkpoints.ended()
        return ended.issuperset(self._workers_left())
