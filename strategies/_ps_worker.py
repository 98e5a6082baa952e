"""One worker of a ps/worker job: its session, and its step under either rule of update."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import tensorflow as tf

from ._ps_graph import Graph, Source, build
from .base import StepResult, Task, Trainer, Workload

if TYPE_CHECKING:
    import numpy as np

POLL_SECONDS = 0.05
v1 = tf.compat.v1


def session_config(task: Task, cores: int) -> tf.compat.v1.ConfigProto:
    """The task's threads; a worker sees the ps tasks and itself, so that no worker waits for another's server."""
    config = v1.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=cores)
    if task.role == "worker":
        config.device_filters.extend(["/job:ps", f"/job:worker/task:{task.index}"])
    return config


class PsTrainer(Trainer):
    """Feeds one ``Session.run`` a step: read θ, compute g, push, and when synchronous wait for the update."""

    def __init__(
        self,
        task: Task,
        workload: Workload,
        source: Source,
        target: str,
        servers: int,
        sync: bool,
        config: tf.compat.v1.ConfigProto,
    ):
        self.rank = self.shard = task.index
        self.shards = workload.replicas
        self._steps_left = workload.total_steps
        with tf.device(f"/job:worker/task:{task.index}"):
            graph = build(workload, source, servers, task.index)
            train = _synchronous(graph, workload.replicas, chief=self.rank == 0) if sync else _asynchronous(graph)
        self._graph = graph
        with tf.device("/job:ps/task:0"):
            self._ended = v1.get_variable("ended", (), tf.int32, v1.zeros_initializer(), use_resource=True)
            self._end = self._ended.assign_add(1, use_locking=True, read_value=False)
        self._session = self._connect(target, config)
        self._step = self._session.make_callable([graph.loss, train], [graph.x, graph.y])
        self._set_learning_rate = self._session.make_callable(graph.set_learning_rate, [graph.learning_rate])
        self._learning_rate: float | None = None
        self._read = self._session.make_callable([variable.read_value() for variable in graph.variables])

    def step(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        if learning_rate != self._learning_rate:
            self._set_learning_rate(learning_rate)
            self._learning_rate = learning_rate
        loss, _ = self._step(x, y)
        self._steps_left -= 1
        if not self._steps_left:
            self._session.run(self._end)
        return StepResult(float(loss), len(y))

    def weights(self) -> list[np.ndarray]:
        """See `Trainer.weights`. After the last step it waits for the other workers' last updates."""
        while not self._steps_left and self._session.run(self._ended) < self.shards:
            time.sleep(POLL_SECONDS)
        return self._read()

    def _connect(self, target: str, config: tf.compat.v1.ConfigProto) -> tf.compat.v1.Session:
        """Worker 0 initialises the variables, the others wait until it has."""
        values = list(zip(self._graph.variables, self._graph.initial, strict=True))
        placeholders = [v1.placeholder(variable.dtype, variable.shape) for variable, _ in values]
        start = [
            variable.assign(placeholder, read_value=False)
            for (variable, _), placeholder in zip(values, placeholders, strict=True)
        ]
        model = {id(variable) for variable, _ in values}
        rest = [variable.initializer for variable in v1.global_variables() if id(variable) not in model]
        manager = v1.train.SessionManager(
            local_init_op=v1.local_variables_initializer(),
            ready_op=v1.report_uninitialized_variables(v1.global_variables()),
            recovery_wait_secs=POLL_SECONDS,
        )
        feeds = dict(zip(placeholders, self._graph.initial, strict=True))
        if self.rank == 0:
            return manager.prepare_session(target, init_op=tf.group(*start, *rest), init_feed_dict=feeds, config=config)
        return manager.wait_for_session(target, config=config, max_wait_secs=float("inf"))


def _asynchronous(graph: Graph) -> tf.Operation:
    pairs = zip(graph.updates, graph.gradients, strict=True)
    return tf.group(*graph.moving, *graph.local, *[update(gradient) for update, gradient in pairs])


def _synchronous(graph: Graph, workers: int, chief: bool) -> tf.Operation:
    """Every worker adds its gradient to accumulators on the ps; the chief applies their mean and lets all go on.

    A token holds the number of the step that it allows, so that a gradient of an earlier step is never counted.
    """
    with tf.device("/job:ps/task:0"):
        clock = v1.get_variable("clock", (), tf.int64, v1.zeros_initializer(), use_resource=True, trainable=False)
        tokens = tf.queue.FIFOQueue(workers, [tf.int64], [()], shared_name="tokens")
        now = clock.read_value()
    accumulators = []
    for index, variable in enumerate(graph.trainable):
        with tf.device(variable.device):
            accumulators.append(
                v1.ConditionalAccumulator(variable.dtype, variable.shape, shared_name=f"accumulator_{index}")
            )
    pushes = [
        accumulator.apply_grad(gradient, now)
        for accumulator, gradient in zip(accumulators, graph.gradients, strict=True)
    ]
    pushed: list[tf.Operation] = pushes
    if chief:
        means = [accumulator.take_grad(workers) for accumulator in accumulators]
        updates = [update(mean) for update, mean in zip(graph.updates, means, strict=True)]
        with tf.control_dependencies([*updates, *pushes, *graph.moving]):
            later = clock.assign_add(1)
        advance = [accumulator.set_global_step(later) for accumulator in accumulators]
        with tf.control_dependencies(advance), tf.device("/job:ps/task:0"):
            pushed = [tokens.enqueue_many([tf.fill([workers], later)])]
    with tf.control_dependencies([*pushed, *graph.local]), tf.device("/job:ps/task:0"):
        return tf.group(tokens.dequeue())
