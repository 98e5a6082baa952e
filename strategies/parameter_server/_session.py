"""Sessions of ps tasks and workers: which worker initializes the variables, and the loops that ps tasks run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.replica import use_gpu
from .._shared.threads import set_threads, sleep_when_idle
from ..base import Task
from ..trainer import Memory, Server, Workload
from ..transport import Group
from ._source import Source
from ._tasks import PART, parts_of
from ._variables import memory_of

if TYPE_CHECKING:
    import numpy as np

v1 = tf.compat.v1
errors = tf.errors
LOST = (errors.UnavailableError, errors.AbortedError, errors.FailedPreconditionError, errors.CancelledError)
"""What a session raises when a ps task is gone, is back under its old address, or is back without its variables."""
POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Member:
    """This task and its running server in the cluster."""

    task: Task
    target: str
    config: tf.compat.v1.ConfigProto

    @property
    def device(self) -> str:
        """Of this task."""
        return f"/job:{self.task.role}/task:{self.task.index}"


@dataclasses.dataclass(frozen=True)
class Node(Member):
    """With the model, and with the task's graph as the default one."""

    source: Source

    def server(self, weights: Sequence[tf.Variable], loop: tf.Operation | None) -> PsServer:
        """What a ps task yields, with the operation that it repeats, if there is one."""
        return PsServer(self, memory_of(self.task.index, weights), loop)


def start(task: Task, group: Group) -> Member:
    """Start this task's TensorFlow server in the cluster that ``TF_CONFIG`` describes."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    cores = group.cores_per_replica * (group.replicas if task.role == "ps" else 1)
    cut = resolver.cluster_spec().as_dict().get(PART, [])
    if task.role != "ps":
        # Where a model is cut, a thread more, so that what arrives is taken while others compute.
        set_threads(1, cores, exchanges=bool(cut))
        use_gpu(task.index)
    parts = 1 + len(cut) // len(resolver.cluster_spec().job_tasks("worker"))
    config = session_config(task, cores, parts)
    server = tf.distribute.Server(resolver.cluster_spec(), task.role, task.index, config=config)
    return Member(task, server.target, config)


@contextmanager
def join(task: Task, workload: Workload, servers: int, by_rows: bool = False) -> Iterator[Node]:
    """Start this task's server, and build its model. For the other arguments see `Source.of`."""
    member = start(task, workload)
    source = Source.of(workload, servers, by_rows)
    with tf.Graph().as_default():
        yield Node(member.task, member.target, member.config, source)


def session_config(task: Task, cores: int, parts: int) -> tf.compat.v1.ConfigProto:
    """The task's threads. A worker sees the ps tasks and itself, so no worker waits for the server of another.

    Args:
        parts: of a worker's model; it sees the tasks that have them, too.
    """
    threads = cores if task.role == "ps" else cores + (parts > 1)
    config = sleep_when_idle(v1.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=threads))
    config.device_filters.append("/job:ps")
    worker = task.index // (parts - 1) if task.role == PART else task.index
    if task.role != "ps":
        config.device_filters.append(f"/job:worker/task:{worker}")
        config.device_filters.extend(f"/job:{PART}/task:{index}" for index in parts_of(worker, parts))
    return config


class Sessions:
    """Opens a worker's sessions on the variables of the graph so far.

    Args:
        member: this worker.
        init: gives all variables their first values, fed with ``feeds``.
    """

    def __init__(self, member: Member, init: tf.Operation, feeds: Mapping[tf.Tensor, np.ndarray]):
        self._member, self._init, self._feeds = member, init, feeds
        self._manager = _manager()
        self._links = _links()

    def open(
        self, leads: Callable[[], bool], source: Callable[[], dict[str, Any]] | None = None
    ) -> tf.compat.v1.Session:
        """A session, once all variables have values. A worker that ``leads`` gives them values where they have none.

        Args:
            leads: called repeatedly, as the worker that led may have died.
            source: where ``SessionManager.prepare_session`` finds saved values.
        """
        while True:
            try:
                with contextlib.suppress(errors.DeadlineExceededError):
                    return self._manager.wait_for_session(
                        self._member.target, config=self._member.config, max_wait_secs=0
                    )
                if leads():
                    return self._begin(source() if source else {})
            except LOST:
                # A ps task has not started yet, or has died.
                pass
            time.sleep(POLL_SECONDS)

    def forget(self) -> None:
        """The first values: no session will be opened again."""
        self._feeds = {}

    def _begin(self, source: dict[str, Any]) -> tf.compat.v1.Session:
        # After a refused connection gRPC waits some time before it tries again, and calls fail until then. A ps task
        # that looked for another one too early would fail the first step.
        with v1.Session(self._member.target, config=self._member.config) as session:
            session.run(self._links)
        return self._manager.prepare_session(
            self._member.target, self._init, init_feed_dict=self._feeds, config=self._member.config, **source
        )


def _links() -> tf.Operation:
    """An operation on each ps task that waits for one on every other. It fails where one can't reach another."""
    places = sorted({variable.device for variable in v1.global_variables()})

    def times() -> list[tf.Tensor]:
        made = []
        for place in places:
            with tf.device(place):
                made.append(tf.timestamp())
        return made

    with tf.control_dependencies(times()):
        return tf.group(*times())


class PsServer(Server):
    """A ps task. TensorFlow serves its variables; in addition it may repeat one operation."""

    def __init__(self, node: Node, memory: Memory, loop: tf.Operation | None):
        self.memory = memory
        self._node, self._loop = node, loop
        self._graph = v1.get_default_graph()

    def serve(self) -> None:
        """See `Server.serve`. The operation blocks when there is nothing to do. It ends with the process."""
        if self._loop is None:
            return
        with self._graph.as_default():
            session = _manager().wait_for_session(
                self._node.target, config=self._node.config, max_wait_secs=float("inf")
            )
        run = session.make_callable(self._loop)
        while True:
            run()


def _manager() -> tf.compat.v1.train.SessionManager:
    return v1.train.SessionManager(
        local_init_op=v1.local_variables_initializer(),
        ready_op=v1.report_uninitialized_variables(v1.global_variables()),
        recovery_wait_secs=POLL_SECONDS,
    )
