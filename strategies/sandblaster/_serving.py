"""What the ps tasks and the remote workers do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ...errors import RunError
from .._shared.held import told
from .._shared.messages import Messages
from .._shared.replica import loss_with, release, use_gpu
from .._shared.threads import set_threads
from .._shared.vectors import flat, parts
from ..base import Task
from ..trainer import Memory, Server, Workload
from ._shards import Shard, Shards
from ._wire import hear, tell


def shard(task: Task, workload: Workload, messages: Messages) -> Server:
    """A ps task."""
    no_gpu()
    set_threads(1, workload.cores_per_replica)
    return Shard(messages, told(workload, task.label), Updates(workload))


def no_gpu() -> None:
    """This process leaves the GPUs to the remote workers."""
    tf.config.set_visible_devices([], "GPU")


class Updates:
    """New values of a shard's weights, by an optimizer of its own."""

    def __init__(self, workload: Workload):
        self._workload = workload
        self._made: tuple[keras.Variable, keras.optimizers.Optimizer] | None = None

    def __call__(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> np.ndarray:
        """All are vectors of the same length."""
        if self._made is None:
            variable, optimizer = keras.Variable(weights, name="shard"), self._workload.optimizer()
            optimizer.build([variable])
            self._made = variable, optimizer
            self._apply = tf.function(lambda each: optimizer.apply([each], [variable]), autograph=False)
        variable, optimizer = self._made
        optimizer.learning_rate.assign(rate)
        self._apply(tf.constant(gradient))
        return variable.numpy()


def remote(task: Task, workload: Workload, messages: Messages, servers: Sequence[int]) -> Server:
    """A task that computes portions."""
    set_threads(1, workload.cores_per_replica)
    use_gpu(task.index)
    return Remote(workload, messages, Shards(messages, servers), told(workload, task.label))


class Remote(Server):
    """Computes what the coordinator asks for, and leaves it on the shards.

    Random generators of the model go on from portion to portion as they do in one process, whoever computes it.
    """

    def __init__(self, workload: Workload, messages: Messages, shards: Shards, memory: Memory):
        self.memory = memory
        self._workload, self._messages, self._shards = workload, messages, shards
        self._model = workload.model()
        others = self._model.non_trainable_variables
        self._counts = [each.numpy() for each in others if not is_moved(each)]
        self._advance: list[np.ndarray] | None = None
        for variable in self._model.variables:
            release(variable)
        self._step = tf.function(self._compute, reduce_retracing=True, autograph=False)
        self._kept: dict[int, list[np.ndarray]] = {}
        self._batch = self._evaluation = 0

    def serve(self) -> None:
        """See `Server.serve`: until the coordinator is gone."""
        while True:
            try:
                words, arrays = hear(self._messages, 0)
            except RunError:
                return
            answer = self._answer(arrays, **words)
            try:
                tell(self._messages, 0, *answer)
            except RunError:
                return

    def _answer(
        self,
        arrays: list[np.ndarray],
        batch: int,
        evaluation: int,
        portion: int,
        number: int,
        weights: str,
        sleep: float,
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """One portion.

        Args:
            arrays: its examples; none if this worker has had them before.
            number: of portions of all batches before this one.
            weights: name of the vector on the shards.
            sleep: seconds that it is to take longer.
        """
        if batch != self._batch:
            self._batch, self._kept = batch, {}
        if arrays:
            self._kept[portion] = arrays
        if evaluation != self._evaluation:
            found = self._shards.get(weights, "fixed")
            self._evaluation, self._weights = evaluation, [tf.constant(each) for each in found]
        examples = keras.tree.pack_sequence_as(self._workload.empty_batch, self._kept[portion])
        begin = time.perf_counter()
        if sleep:
            time.sleep(sleep)
        if self._advance is None:
            after = self._step(*self._weights, self._counts, examples)[3]
            self._advance = [now.numpy() - before for now, before in zip(after, self._counts, strict=True)]
        counts = [start + number * each for start, each in zip(self._counts, self._advance, strict=True)]
        loss, gradient, moved, after = self._step(*self._weights, counts, examples)
        first = not portion
        left = [gradient.numpy(), *([moved.numpy()] if first else [])]
        seconds = time.perf_counter() - begin
        self._shards.push(evaluation, portion, self._messages.rank, *left)
        return {"loss": float(loss), "seconds": seconds}, [each.numpy() for each in after] if first else []

    def _compute(
        self, vector: tf.Tensor, fixed: tf.Tensor, counts: list[tf.Tensor], batch: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """→ loss, its gradient, values of what layers move and of what they count."""
        model = self._model
        others = model.non_trainable_variables
        trained = parts(vector, model.trainable_variables)
        floats, whole = iter(parts(fixed, [v for v in others if is_moved(v)])), iter(counts)
        values = [next(floats) if is_moved(each) else next(whole) for each in others]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            loss, moved = loss_with(self._workload, model, trained, values, batch)
        gradients = tape.gradient(loss, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        pairs = list(zip(others, moved, strict=True))
        return (
            loss,
            flat([tf.convert_to_tensor(each) for each in gradients]),
            flat([tf.convert_to_tensor(value) for variable, value in pairs if is_moved(variable)]),
            [tf.convert_to_tensor(value) for variable, value in pairs if not is_moved(variable)],
        )


def is_moved(variable: keras.Variable) -> bool:
    """Whether it has real numbers, as the means of a normalisation, rather than the state of a random generator."""
    return tf.as_dtype(variable.dtype).is_floating
