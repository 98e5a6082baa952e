"""What the strategies share that run a Keras model eagerly built in each process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import tensorflow as tf

from .base import Memory, StepResult, Trainer, Workload

if TYPE_CHECKING:
    import keras
    import numpy as np


def loss_and_gradients(
    workload: Workload, model: keras.Model, x: tf.Tensor, y: tf.Tensor, scale: float = 1.0
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Mean loss over (x, y), with the model's own regularisers, and its gradients.

    Gradients are dense, those of an `Embedding` too. Keras's optimizers take a sparse one whose indices repeat for
    several gradients (Σg² in Adam where (Σg)² is meant), so that its update would depend on how it was exchanged.

    Args:
        scale: factor on the gradients alone; 1/N where what follows sums over N replicas.
    """
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        loss = workload.loss(y, model(workload.inputs(x), training=True))
        loss = add_to(loss, model.losses)
        scaled = loss * scale if scale != 1.0 else loss
    gradients = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


def add_to(loss: tf.Tensor, others: Iterable[tf.Tensor]) -> tf.Tensor:
    """The loss with those of regularisers and ``add_loss``, each summed up and in the loss's type, as Keras does."""
    for other in others:
        loss += tf.cast(tf.reduce_sum(other), loss.dtype)
    return loss


def extra_loss(model: keras.Model) -> tf.Tensor:
    """What regularisers and ``add_loss`` added in the model's last call."""
    return add_to(tf.zeros([]), model.losses)


class KerasTrainer(Trainer):
    """Runs one ``tf.function`` a step. The strategy gives its body; this feeds it and sets the learning rate."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        body: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        rank: int = 0,
        shards: int = 1,
        copies: int = 1,
        count: int = 1,
    ):
        self.model = model
        self.optimizer = optimizer
        self.rank = self.shard = rank
        self.shards, self.count = shards, count
        # As Keras's own fit, which doesn't convert either; converted code stays in the temporary folder after a kill.
        self._body = tf.function(body, reduce_retracing=True, autograph=False)
        self._learning_rate: float | None = None
        self.memory = Memory(copies * size_bytes(model.variables), copies * size_bytes(optimizer.variables))

    def step(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> StepResult:
        """See `Trainer.step`. Reading the loss waits for the device, so that the step is over on return."""
        if learning_rate != self._learning_rate:
            self.optimizer.learning_rate = self._learning_rate = learning_rate
        loss = float(self._body(x, y))
        return StepResult(loss if len(y) else 0.0, len(y))

    def weights(self) -> list[np.ndarray]:
        """See `Trainer.weights`."""
        return self.model.get_weights()


def size_bytes(variables: Iterable[keras.Variable]) -> int:
    """Of all of them together."""
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def set_threads(replicas: int, cores_per_replica: int) -> None:
    """Give TensorFlow's pools the cores of this process's replicas; call before TensorFlow makes any device."""
    tf.config.threading.set_intra_op_parallelism_threads(replicas * cores_per_replica)
    tf.config.threading.set_inter_op_parallelism_threads(max(replicas, cores_per_replica))


def use_gpu(local_index: int) -> None:
    """Show this process one GPU only, where there are any."""
    devices = tf.config.list_physical_devices("GPU")
    if devices:
        tf.config.set_visible_devices(devices[local_index % len(devices)], "GPU")
