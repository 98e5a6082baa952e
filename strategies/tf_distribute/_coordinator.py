"""Functions that a ``ClusterCoordinator`` schedules, and the servers that run them."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.devices import gpus
from .._shared.held import tell, told
from .._shared.moments import moment, not_before
from .._shared.replica import loss_with, size_bytes, use_gpu
from .._shared.sleeping import asleep, register
from .._shared.threads import set_threads, sleep_when_idle
from ..base import Task
from ..trainer import Batch, Memory, Server, Split, StepResult, Trainer, Workload, examples_of

if TYPE_CHECKING:
    import keras
    import numpy as np

v1 = tf.compat.v1


def _resolver() -> tf.distribute.cluster_resolver.TFConfigClusterResolver:
    """Of the cluster that ``TF_CONFIG`` describes."""
    # As TensorFlow's tutorial: else a call to a worker that is gone waits for it, rather than fail.
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")


def serving(task: Task, workload: Workload) -> Server:
    """Start the server of a ps task or a remote worker."""
    resolver = _resolver()
    cores = workload.cores_per_replica * (1 if task.replicas else workload.replicas)
    set_threads(1, cores)
    use_gpu(task.index)
    # Functions wait for other tasks on these threads. With fewer, as TensorFlow's tutorial says, they may all wait.
    waiting = workload.replicas + len(resolver.cluster_spec().job_tasks("ps")) + 1
    config = sleep_when_idle(v1.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=waiting))
    server = tf.distribute.Server(
        resolver.cluster_spec(), resolver.task_type, resolver.task_id, protocol="grpc", config=config
    )
    return RemoteServer(task, workload, server)


class RemoteServer(Server):
    """A ps task or a remote worker. It waits until the coordinator has placed the weights."""

    def __init__(self, task: Task, workload: Workload, server: tf.distribute.Server):
        self._server = server

        def sleep(seconds: Any) -> Any:
            time.sleep(float(seconds[task.index]))
            return seconds[task.index]

        # Always: the functions that sleep may come to any remote worker, and only the coordinator knows that they do.
        self._graph = register(sleep) if task.replicas else None
        self.memory = told(workload, task.label)


class CoordinatorTrainer(Trainer):
    """Schedules one function a part of the global batch, and waits for all.

    Args:
        sync: whether one update follows, by the mean of the gradients.
    """

    def __init__(self, workload: Workload, sync: bool):
        replicas = workload.replicas
        self.shards = self.count = replicas
        self._workload, self._sync = workload, sync
        resolver = _resolver()
        self._servers = len(resolver.cluster_spec().job_tasks("ps"))
        self._strategy = tf.distribute.ParameterServerStrategy(resolver)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(self._strategy)
        with self._strategy.scope():
            self._model, self._optimizer = workload.model(), workload.optimizer()
            trained = self._model.trainable_variables
            self._optimizer.build(trained)
            # A place for each part's gradient, so that a function that runs twice leaves it once.
            self._places = [
                [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False) for v in trained]
                for _ in range(replicas if sync else 0)
            ]
        self._slow = {label: seconds for label, seconds in workload.delays.items() if label.startswith("remote-")}
        self._slow_own = workload.delays.get("worker-0")
        part = tf.nest.map_structure(
            lambda each: tf.TensorSpec((workload.global_batch // replicas, *each.shape[1:]), each.dtype),
            workload.empty_batch,
        )
        self._replicas = [
            self._function(functools.partial(self._replica, index), part, *self._delays()) for index in range(replicas)
        ]
        self._update = self._function(self._apply_means) if sync else None
        self._rate: float | None = None
        self._on_cpus = not gpus()
        self.memory = Memory(0, 0)
        # What the workers of other strategies send goes between tasks that serve here.
        self.traffic_bytes = float(workload.global_batch * sum(map(_row_bytes, tf.nest.flatten(workload.empty_batch))))
        self._tell()

    def _function(self, body: Callable[..., tf.Tensor], *arguments: Any) -> Any:
        """What can be scheduled, made before the first step."""
        with self._strategy.scope():
            run = tf.function(lambda *given: self._strategy.run(body, given), autograph=False)
            return run.get_concrete_function(*arguments)

    def _replica(self, index: int, batch: Batch, delays: tf.Tensor | None = None) -> tf.Tensor:
        model = self._model
        trained, fixed = (
            [tf.convert_to_tensor(variable.value) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        taken = moment(trained + fixed)
        trained, fixed = not_before(taken, trained), not_before(taken, fixed)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            loss, moved = loss_with(self._workload, model, trained, fixed, batch)
        gradients = tape.gradient(loss, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        if delays is not None:
            with tf.control_dependencies(gradients), tf.control_dependencies([asleep(delays)]):
                gradients = [tf.identity(each) for each in gradients]
        computed = moment(gradients)
        if not index or not self._sync:
            for variable, value in zip(model.non_trainable_variables, moved, strict=True):
                variable.assign(value)
        if self._sync:
            for place, gradient in zip(self._places[index], gradients, strict=True):
                place.assign(gradient)
        else:
            self._optimizer.apply(gradients, model.trainable_variables)
        return tf.stack([tf.cast(loss, tf.float64), taken, computed])

    def _apply_means(self) -> tf.Tensor:
        parts = zip(*self._places, strict=True)
        means = [tf.add_n([each.read_value() for each in part]) / len(self._places) for part in parts]
        self._optimizer.apply(means, self._model.trainable_variables)
        return tf.constant(0)

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        begin = time.perf_counter()
        if learning_rate != self._rate:
            self._optimizer.learning_rate.assign(learning_rate)
            self._rate = learning_rate
        if slept := self._slow_own() if self._slow_own else 0.0:
            time.sleep(slept)
        examples = examples_of(batch)
        size = examples // self.shards
        done = [
            self._coordinator.schedule(function, (_part(batch, start, size), *self._delays()))
            for function, start in zip(self._replicas, range(0, examples, size), strict=True)
        ]
        self._coordinator.join()
        if self._update:
            self._coordinator.schedule(self._update)
            self._coordinator.join()
        losses, taken, computed = zip(*(each.tolist() for each in self._coordinator.fetch(done)), strict=True)
        computing = (sum(computed) - sum(taken)) / len(done) + slept
        waiting = max(computed) - sum(computed) / len(done)
        communicating = max(time.perf_counter() - begin - computing - waiting, 0.0)
        split = Split(computing, communicating, waiting)
        return StepResult(sum(losses) / len(losses), examples, split=split if self._on_cpus else None)

    def _delays(self) -> tuple[tf.Tensor, ...]:
        """For a function, seconds by which each remote worker is to be slow; it takes its own."""
        if not self._slow:
            return ()
        return (tf.constant([self._slow.get(f"remote-{index}", float)() for index in range(self.shards)], tf.float32),)

    def _tell(self) -> None:
        """Tell the other tasks what they hold."""
        held = {f"remote-{index}": Memory(0, 0, size_bytes(self._model.weights)) for index in range(self.shards)}
        for server in range(self._servers):
            kinds = (self._model.weights, self._optimizer.variables, [each for part in self._places for each in part])
            held[f"ps-{server}"] = Memory(*(size_bytes([v for v in kind if _is_on(v, server)]) for kind in kinds))
        tell(self._workload, held)

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._model.get_weights()


def _part(batch: Batch, start: int, size: int) -> Batch:
    return tf.nest.map_structure(lambda each: tf.constant(each[start : start + size]), batch)


def _row_bytes(array: np.ndarray) -> int:
    """Of one example."""
    return array.dtype.itemsize * math.prod(array.shape[1:])


def _is_on(variable: keras.Variable | tf.Variable, server: int) -> bool:
    device = tf.DeviceSpec.from_string((variable if isinstance(variable, tf.Variable) else variable.value).device)
    return (device.job, device.task) == ("ps", server)
