"""Sessions of ps and worker tasks: who initialises the variables, who waits, and the loops that ps tasks run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import tensorflow as tf

from .._replica import set_threads, use_gpu
from ..base import Memory, Server, StepResult, Task, Trainer, Update, Workload
from ._checkpoint import LOST, Checkpoints
from ._graph import FIRST, Shared, Source, memory_of, shared_variable, size_bytes

if TYPE_CHECKING:
    import numpy as np

v1 = tf.compat.v1
POLL_SECONDS = 0.05
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Node:
    """This task, its running server and the model, with the task's graph as the default one."""

    task: Task
    source: Source
    target: str
    config: tf.compat.v1.ConfigProto

    @property
    def device(self) -> str:
        """Of this task."""
        return f"/job:{self.task.role}/task:{self.task.index}"

    def server(self, weights: Sequence[tf.Variable], loop: tf.Operation | None) -> PsServer:
        """What a ps task yields, with the operation that it runs again and again, if there is one."""
        return PsServer(self, memory_of(self.task.index, weights), loop)


@contextmanager
def join(task: Task, workload: Workload) -> Iterator[Node]:
    """Start this task's TensorFlow server in the cluster that ``TF_CONFIG`` describes."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    cores = workload.cores_per_replica * (1 if task.role == "worker" else workload.replicas)
    if task.role == "worker":
        set_threads(1, cores)
        use_gpu(task.index)
    config = session_config(task, cores)
    server = tf.distribute.Server(resolver.cluster_spec(), task.role, task.index, config=config)
    source = Source.of(workload.model())
    with tf.Graph().as_default():
        yield Node(task, source, server.target, config)


def session_config(task: Task, cores: int) -> tf.compat.v1.ConfigProto:
    """The task's threads; a worker sees the ps tasks and itself, so that no worker waits for another's server."""
    config = v1.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=cores)
    config.device_filters.append("/job:ps")
    if task.role == "worker":
        config.device_filters.append(f"/job:worker/task:{task.index}")
    return config


class PsTrainer(Trainer):
    """A worker's session. Each rule of update derives from it, and makes its graph before it connects.

    Args:
        sets_rate: whether this worker sets the learning rate.
        checkpoint_every: steps of worker 0 between checkpoints, from which all go on when a ps task died; 0 for none.
    """

    def __init__(
        self, node: Node, workload: Workload, shared: Shared, sets_rate: bool = True, checkpoint_every: int = 0
    ):
        self._node = node
        self.rank = self.shard = node.task.index
        self.shards = workload.replicas
        self._workers_left = workload.workers_left
        self._steps_left = workload.total_steps - workload.first_step
        self._shared = shared
        self._sets_rate = sets_rate
        self._learning_rate: float | None = None
        self.memory = Memory(0, 0, size_bytes(shared.weights))
        ended = shared_variable("ended", 0, (self.shards,), tf.int32)
        with tf.device(FIRST):
            self._end = tf.raw_ops.ResourceScatterUpdate(resource=ended.handle, indices=self.rank, updates=1)
            self._ended = tf.reduce_sum(ended.read_value())
        self._checkpoints = Checkpoints(workload.scratch(), checkpoint_every) if checkpoint_every else None

    def connect(self, *copies: Sequence[tf.Variable]) -> None:
        """Open the session. Worker 0 initialises the variables of the graph so far; the others wait until it has.

        Args:
            copies: further variables that start as the model's weights do, in the order of ``model.weights``.
        """
        reads = [variable.read_value() for variable in self._shared.weights]
        everywhere = (self._shared.weights, *copies)
        pairs = [pair for variables in everywhere for pair in zip(variables, self._node.source.weights, strict=True)]
        placeholders = [v1.placeholder(variable.dtype, variable.shape) for variable, _ in pairs]
        start = [
            variable.assign(placeholder, read_value=False)
            for (variable, _), placeholder in zip(pairs, placeholders, strict=True)
        ]
        given = {id(variable) for variable, _ in pairs}
        rest = [variable.initializer for variable in v1.global_variables() if id(variable) not in given]
        self._reads, self._init = reads, tf.group(*start, *rest)
        self._feeds = dict(zip(placeholders, [value for _, value in pairs], strict=True))
        if self._checkpoints:
            self._checkpoints.build()
        self._open(begins=self.rank == 0 and not self._node.task.attempt)

    def _open(self, begins: bool) -> None:
        """A session; whoever ``begins`` gives the variables their values, from a checkpoint if there is one."""
        manager = _manager()
        if begins:
            source = self._checkpoints.source() if self._checkpoints else {}
            self.session = manager.prepare_session(
                self._node.target, self._init, init_feed_dict=self._feeds, config=self._node.config, **source
            )
        else:
            self.session = _wait_for_session(manager, self._node)
        self.bind()

    def bind(self) -> None:
        """Make what is called in each step, for the session that is open now."""
        self._learning_rate = None
        self._read = self.session.make_callable(self._reads)
        self._set_rate = self.session.make_callable(self._shared.set_learning_rate, [self._shared.learning_rate])

    def step(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        loss, update = self._through(lambda: self._step_once(x, y, learning_rate))
        self._steps_left -= 1
        self.finished |= not self._steps_left
        if self.finished:
            self._through(lambda: self.session.run(self._end))
        elif self._checkpoints and self.rank == 0:
            self._through(self._save)
        return StepResult(loss, len(y), update)

    def _step_once(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> tuple[float, Update | None]:
        if self._sets_rate and learning_rate != self._learning_rate:
            self._set_rate(learning_rate)
        self._learning_rate = learning_rate
        loss, update = self.advance(x, y)
        if self._checkpoints and update:
            self._checkpoints.note(update)
        return loss, update

    def _save(self) -> None:
        if self._checkpoints:
            self._checkpoints.step(self.session)

    def _through(self, act: Callable[[], T]) -> T:
        """Do it, if need be after what a ps task held has been restored; without checkpoints its death is the end."""
        if not self._checkpoints:
            return act()
        failed: float | None = None
        while True:
            try:
                if failed is not None:
                    self._open(begins=self.rank == 0)
                    if self.finished:
                        self.session.run(self._end)
                done = act()
            except LOST:
                failed = failed or time.monotonic()
                time.sleep(POLL_SECONDS)
                continue
            if failed is not None:
                self.restored = [*self.restored, self._checkpoints.restored(self.rank == 0, failed)]
            return done

    def advance(self, x: np.ndarray, y: np.ndarray) -> tuple[float, Update | None]:
        """One step by the rule of update: its loss, and what became of what it pushed."""
        raise NotImplementedError

    def weights(self) -> list[np.ndarray]:
        """See `Trainer.weights`. After the last step it waits for the last updates of the others that are left."""
        while self.finished and self._through(lambda: self.session.run(self._ended)) < len(self._workers_left()):
            time.sleep(POLL_SECONDS)
        return self._through(lambda: self._read())


class PsServer(Server):
    """A ps task. TensorFlow serves its variables; it may beside that run one operation again and again."""

    def __init__(self, node: Node, memory: Memory, loop: tf.Operation | None):
        self.memory = memory
        self._node, self._loop = node, loop
        self._graph = v1.get_default_graph()

    def serve(self) -> None:
        """See `Server.serve`. Blocks in the operation when there is nothing to do; the end of the process ends it."""
        if self._loop is None:
            return
        with self._graph.as_default():
            run = _wait_for_session(_manager(), self._node).make_callable(self._loop)
        while True:
            run()


def _wait_for_session(manager: tf.compat.v1.train.SessionManager, node: Node) -> tf.compat.v1.Session:
    return manager.wait_for_session(node.target, config=node.config, max_wait_secs=float("inf"))


def _manager() -> tf.compat.v1.train.SessionManager:
    return v1.train.SessionManager(
        local_init_op=v1.local_variables_initializer(),
        ready_op=v1.report_uninitialized_variables(v1.global_variables()),
        recovery_wait_secs=POLL_SECONDS,
    )
