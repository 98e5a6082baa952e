"""The work of a run, the same under every strategy: model, optimizer, loss, batches, learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets import base as datasets
from ...datasets.batches import Batches, steps_per_epoch
from ...datasets.split import split_rows
from ..plan import learning_rate, models
from ..plan.spec import OPTIMIZERS, RunSpec
from ..plan.task import LOST_SUFFIX, SCRATCH

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


_ITEM_BYTES = 4


class SpecWorkload:
    """What a `RunSpec` describes. Implements `stratbench.strategies.base.Workload`.

    Args:
        folder: the run's, where the launcher leaves word of workers that it no longer counts on.
        first_step: that this process takes; later than 0 in a worker that was started again.

    Attributes:
        delay: called in every forward pass that is traced after it is set.
    """

    def __init__(self, spec: RunSpec, folder: Path | None = None, first_step: int = 0):
        self.spec = spec
        self.first_step = first_step
        self._folder = folder
        self.delay: Callable[[], None] | None = None
        self.dataset = datasets.parse(spec.dataset)
        self.info = self.dataset.info()
        self.rows = split_rows(self.info, spec.split)
        self.replicas = spec.replicas
        self.global_batch = spec.global_batch
        self.cores_per_replica = spec.cores_per_replica
        self.input_shape = self.info.shape
        self.input_dtype = str(self.dataset.read(self.rows["train"][:1])[0].dtype)
        self.optimizer_settings: Mapping[str, Any] = OPTIMIZERS[spec.optimizer] | {"learning_rate": spec.learning_rate}
        self.steps_per_epoch = steps_per_epoch(len(self.rows["train"]), spec.global_batch, spec.last_batch)
        self.total_steps = spec.steps or (spec.epochs or 0) * self.steps_per_epoch
        self.parameters = 0
        self.trained_bytes = 0
        self.activation_bytes: int | None = None
        self._loss: models.Loss | None = None

    def model(self) -> keras.Model:
        """See the protocol. The seed is set anew, so that every call draws the same initial weights."""
        import keras

        keras.utils.set_random_seed(self.spec.seed)
        model = models.build(self.spec.model, self.info.shape, self.info.classes)
        if not model.built:
            model.build((None, *self.info.shape))
        self.parameters = model.count_params()
        self.trained_bytes = sum(math.prod(v.shape) * _ITEM_BYTES for v in model.trainable_variables)
        self.activation_bytes = models.activation_bytes(model, self.spec.per_replica_batch)
        if self._loss is None:
            self._loss = models.loss_function(model, self.info.classes)
        return model

    def optimizer(self) -> keras.optimizers.Optimizer:
        """See the protocol."""
        import keras

        settings = dict(self.optimizer_settings)
        return keras.optimizers.get({"class_name": settings.pop("name"), "config": settings})

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """See the protocol."""
        import tensorflow as tf

        if self.delay:
            with tf.control_dependencies([tf.numpy_function(self.delay, [], [])]):
                x = tf.identity(x)
        scaled = tf.cast(x, tf.float32)
        return scaled / 255.0 if x.dtype == tf.uint8 else scaled

    def scratch(self) -> Path:
        """See the protocol."""
        if self._folder is None:
            raise RuntimeError("scratch() needs a run's folder")
        (self._folder / SCRATCH).mkdir(exist_ok=True)
        return self._folder / SCRATCH

    def workers_left(self) -> list[int]:
        """See the protocol."""
        lost = {path.stem for path in self._folder.glob(f"worker-*{LOST_SUFFIX}")} if self._folder else set()
        return [index for index in range(self.replicas) if f"worker-{index}" not in lost]

    def reports(self, rank: int) -> bool:
        """Whether that worker is the one that saves and evaluates the weights: the first of those left."""
        return rank == self.workers_left()[0]

    def loss(self, y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """See the protocol. Call `model` first: a compiled loss comes with it."""
        if self._loss is None:
            raise RuntimeError("model() comes before loss()")
        return self._loss(y, predictions)

    def batches(self, shards: int, shard: int, count: int = 1) -> Batches:
        """What one process reads of every global batch: see `Batches`."""
        return Batches(
            self.dataset,
            self.rows["train"],
            global_batch=self.global_batch,
            seed=self.spec.seed,
            shards=shards,
            shard=shard,
            count=count,
            sharding=self.spec.sharding,
            last=self.spec.last_batch,
        )

    def schedule(self) -> learning_rate.Schedule:
        """Learning rate of each update."""
        spec = self.spec
        peak = spec.learning_rate * learning_rate.factor(spec.lr_scaling, spec.global_batch, spec.reference_batch)
        return learning_rate.Schedule(
            start=spec.learning_rate, peak=peak, warmup_steps=round(spec.warmup_epochs * self.steps_per_epoch)
        )
