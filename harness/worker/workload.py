"""The work of a run, the same under every strategy: model, optimizer, loss, batches, learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Makes NumPy know the type "bfloat16".
import ml_dtypes  # noqa: F401
import numpy as np

from ...datasets import base as datasets
from ...datasets.batches import Batches, sequential, steps_per_epoch
from ...datasets.split import split_rows
from ...datasets.structure import is_empty, map_structure
from ...errors import RunError, UsageError
from ...results.schema import COMPILED_SCHEDULE
from ...strategies._shared.own_optimizers import OwnOptimizers, is_number
from ..plan import class_weights, learning_rate, optimizers
from ..plan.models import own
from ..plan.spec import RunSpec
from ..plan.task import LOST_SUFFIX, SCRATCH
from . import backend, compiled, first_update, normalisers, numerics, own_schedule, own_steps, snapshots
from .building import build, policy
from .objective import Objective, compute_loss
from .wording import one_line

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Batch, Mean, Structure, Tensor


_DENSE = "dense ones are used; fit's optimizers take an index that a batch repeats for several gradients"
_TRACED = 2
"""Made-up examples of a traced step."""


class SpecWorkload:
    """What a `RunSpec` describes. Implements `stratbench.strategies.trainer.Workload`.

    A batch is what Keras's ``fit`` takes of a data set: a tuple (x, y) or (x, y, sample_weight).

    Args:
        folder: the run's. The launcher leaves a file there for each worker that no longer takes part.
        first_step: that this process takes; later than 0 in a worker that was started again.

    Attributes:
        delay: called in every forward pass that is traced after it is set.
        delays: see the protocol.
        own_optimizers: those of the model that take the place of the run's, in words; empty if there are none.
        unused: what the model was compiled with and this run does not use, in words.
        parameters, trained_bytes, activation_bytes: of the model that was built last.
        initial_weights: digits of the weights that it had then.
        initial_sums, trained: of its weights, as `first_update.sums` gives and takes them.
        total_examples: that all replicas read in `total_steps`.
    """

    def __init__(self, spec: RunSpec, folder: Path | None = None, first_step: int = 0):
        self.spec = spec
        self.first_step = first_step
        self._folder = folder
        self.delay: Callable[[], None] | None = None
        self.delays: Mapping[str, Callable[[], float]] = {}
        self.dataset = datasets.parse(spec.dataset, spec.data_file)
        self.info = self.dataset.info()
        self.rows = split_rows(self.info, spec.split)
        self.replicas = spec.replicas
        self.global_batch = spec.global_batch
        self.cores_per_replica = spec.cores_per_replica
        self.empty_batch = map_structure(lambda each: np.zeros((0, *each.shape), each.dtype), self.info.structure)
        chosen = optimizers.parse(spec.optimizer)
        self.accumulate = chosen.accumulate
        settings = {key: value for key, value in chosen.settings.items() if key != optimizers.ACCUMULATION}
        self.optimizer_settings: Mapping[str, Any] = settings | {"learning_rate": spec.learning_rate}
        self.steps_per_epoch = steps_per_epoch(len(self.rows["train"]), spec.global_batch, spec.last_batch)
        self.whole_batches = spec.global_batch == len(self.rows["train"])
        self.total_steps = spec.total_steps(len(self.rows["train"]))
        self.total_examples = self._examples(self.total_steps)
        self.parameters = 0
        self.initial_weights, self.initial_sums = "", list[float | None]()
        self.trained: list[bool] = []
        self.trained_bytes = 0
        self.activation_bytes: int | None = None
        self.unused = ""
        self.jit = self.own_step = False
        self._loss_scale: Mapping[str, Any] | None = None
        self._own_optimizers: own_steps.Used = {}
        self.own_optimizers = ""
        self._objective: Objective | None = None
        self._tables: Mapping[str, str] = {}
        self._class_weights = _table(class_weights.parse(spec.class_weight), self.info.classes)
        self._scheduled = spec.lr_schedule.startswith(COMPILED_SCHEDULE)
        self._own_schedule: Any = None

    def model(self) -> keras.Model:
        """See the protocol. The seed is set anew, so that every call draws the same initial weights."""
        import keras

        strategy = self.spec.create_strategy()
        keras.utils.set_random_seed(self.spec.seed)
        with policy(self.spec.precision, self.spec.model):
            model = build(self.spec.model, self.info)
            tries = own(self.spec.model) is None
            self._objective = Objective(self.spec.model, model, self.info, tries, divides=strategy.keras_loop)
        compiled.check(self.spec.model, model, scaled=self.info.scale != 1)
        self.own_step = compiled.has_own(model, compiled.OWN_STEP)
        self._own_optimizers = self._of_own_step(model) if self.own_step else {}
        self.own_optimizers = own_steps.words(self._own_optimizers)
        self.parameters = sum(math.prod(variable.shape) for variable in model.weights)
        weights, trained = model.get_weights(), {id(variable) for variable in model.trainable_variables}
        self.initial_weights = snapshots.digest(weights)
        self.trained = [id(variable) in trained for variable in model.weights]
        self.initial_sums = first_update.sums(weights, self.trained)
        self.trained_bytes = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in model.trainable_variables)
        self.activation_bytes = _activation_bytes(model, self.spec.per_replica_batch)
        own_schedule.make_describable(model)
        accumulation = {optimizers.ACCUMULATION: self.accumulate} if self.accumulate > 1 else {}
        settings = {**self.optimizer_settings, **accumulation}
        named = self.optimizer_settings["name"] and not self._own_optimizers
        trained_by = self._new_optimizer(settings) if named else None
        if self.own_step and self.accumulate > 1:
            raise UsageError(f"model {self.spec.model} has a train_step of its own: leave --accumulate out.")
        # XLA has no exchange between processes.
        able = strategy.compiles and (self.replicas == 1 or not self._objective.normalised)
        able = able and (strategy.keras_loop or not self.own_step)
        self.jit = numerics.jit(self.spec.model, model, self.spec.jit, able)
        self._loss_scale = None if self._own_optimizers else numerics.loss_scale(model)
        apart = strategy.divides(self.replicas) and not strategy.synchronizes
        self.unused = compiled.unused(model, trained_by, self._scheduled, self.jit, apart)
        self._tables = compiled.tables(model)
        self._own_schedule = own_schedule.of(compiled.own_optimizer(model)) if self._scheduled else None
        return model

    def _examples(self, steps: int) -> int:
        if self.spec.last_batch == "drop":
            return steps * self.global_batch
        epochs, rest = divmod(steps, self.steps_per_epoch)
        rows = len(self.rows["train"])
        return epochs * rows + min(rest * self.global_batch, rows)

    def _of_own_step(self, model: keras.Model) -> own_steps.Used:
        """The optimizers of its ``train_step``, unless that is the one of ``compile``, in whose place is the run's."""
        batch = map_structure(lambda each: np.zeros((_TRACED, *each.shape[1:]), each.dtype), self.empty_batch)
        if getattr(model, "optimizer", None) is None:
            model.optimizer = self._new_optimizer(self.optimizer_settings)
        used = own_steps.used(self.spec.model, model, self.step_data(batch), self.objective.callable)
        return {} if list(used) == [own_steps.MAIN] else used

    @property
    def own_scheduled(self) -> str:
        """The first of them whose learning rate is a schedule; empty if there is none."""
        return next((name for name, (each, _) in self._own_optimizers.items() if not is_number(each)), "")

    def unused_with(self, sparse: Collection[str]) -> str:
        """`unused`, if only these embedding tables, by their paths, have sparse gradients, as all have in Keras."""
        dense = [layer for path, layer in self._tables.items() if path not in sparse]
        words = [f"sparse gradients of {', '.join(dense)} ({_DENSE})"] if dense else []
        return "; ".join(filter(None, [self.unused, *words]))

    def optimizer(self) -> keras.optimizers.Optimizer:
        """See the protocol. Raises UsageError for settings that the optimizer does not have."""
        if self._own_optimizers:
            return OwnOptimizers(self._own_optimizers)
        return numerics.wrapped(self._new_optimizer(self.optimizer_settings), self._loss_scale)

    @property
    def scales_loss(self) -> bool:
        """Whether the optimizer scales the loss, as for float16."""
        return self._loss_scale is not None or bool(self.optimizer_settings.get(optimizers.STATIC_SCALE))

    def _new_optimizer(self, settings: Mapping[str, Any]) -> keras.optimizers.Optimizer:
        import keras

        settings = dict(settings)
        try:
            return getattr(keras.optimizers, settings.pop("name"))(**settings)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--optimizer {self.spec.optimizer} is refused by Keras: {one_line(error)}") from error

    def unpack(self, batch: Batch) -> tuple[Structure, Structure, Structure | None]:
        """What the model is called with, what its loss compares with the outputs, and sample weights, if any."""
        x, y, *weights = batch
        return self._scaled(x), None if is_empty(y) else self.objective.targets(y), weights[0] if weights else None

    def inputs(self, batch: Batch) -> Structure:
        """See the protocol."""
        return self._delayed(self._scaled(batch[0]))

    def _scaled(self, x: Structure) -> Structure:
        import keras

        scale = self.info.scale
        if scale == 1:
            return x
        x = keras.ops.cast(x, "float32")
        x = x if scale.numerator == 1 else x * float(scale.numerator)
        return x if scale.denominator == 1 else x / float(scale.denominator)

    def _delayed(self, x: Structure) -> Structure:
        """``x``, the first array of which is there after the delay that a fault asks for."""
        import keras

        if not self.delay:
            return x
        first, *others = keras.tree.flatten(x)
        return keras.tree.pack_sequence_as(x, [backend.after(self.delay, first), *others])

    def scratch(self) -> Path:
        """See the protocol."""
        if self._folder is None:
            raise RuntimeError("scratch() needs a run's folder")
        (self._folder / SCRATCH).mkdir(exist_ok=True)
        return self._folder / SCRATCH

    def workers_left(self) -> list[int]:
        """See the protocol."""
        lost = {path.stem for path in self._folder.glob(f"worker-*{LOST_SUFFIX}")} if self._folder else set()
        workers = [label for label in self.spec.labels() if label.startswith("worker-")]
        return [int(label.rpartition("-")[2]) for label in workers if label not in lost]

    def reports(self, rank: int) -> bool:
        """Whether that worker is the one that saves and evaluates the weights: the first of those left."""
        return rank == self.workers_left()[0]

    @property
    def objective(self) -> Objective:
        """What the model is trained for. Raises RuntimeError before `model` is called."""
        if self._objective is None:
            raise RuntimeError("model() comes before what is computed for a model")
        return self._objective

    def total_loss(self, model: keras.Model, batch: Batch, mean: Mean | None = None) -> Tensor:
        """See the protocol. Raises RunError for a model whose own ``train_step`` is to be called instead."""
        from ...strategies._shared.turns import keeping

        if self.own_step:
            raise RunError(
                f"model {self.spec.model} has a train_step of its own, which {self.spec.strategy} can't call"
            )
        x, y, weights = self.fit_arguments(batch)
        x = self._delayed(x)
        with normalisers.combined_by(mean and keeping(model, mean)):
            return compute_loss(model, x, y, model(x, training=True), weights, training=True)

    def fit_arguments(self, batch: Batch) -> tuple[Structure, Structure, Structure | None]:
        """See the protocol: as `unpack`, with the weights of classes."""
        import keras

        x, y, weights = self.unpack(batch)
        return x, y, weights if self._class_weights is None else keras.ops.take(self._class_weights, batch[1])

    def step_data(self, batch: Batch) -> Structure:
        """See the protocol."""
        import keras

        _, y, weights = self.fit_arguments(batch)
        return keras.utils.pack_x_y_sample_weight(self.inputs(batch), y, weights)

    def loss(self, batch: Batch, outputs: Tensor) -> Tensor:
        """See the protocol."""
        _, y, weights = self.fit_arguments(batch)
        return self.objective.loss(y, outputs, weights)

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

    def in_order(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """The examples of these rows, in order, in batches of ``size`` and what is left over."""
        return sequential(self.dataset, rows, size)

    def schedule(self) -> Callable[[int], float]:
        """Learning rate of each update."""
        spec = self.spec
        factor = learning_rate.factor(spec.lr_scaling, spec.global_batch, spec.reference_batch)
        rate = 1.0 if self._scheduled else spec.learning_rate
        ours = learning_rate.Schedule(
            start=rate,
            peak=rate * factor,
            warmup_steps=round(spec.warmup_epochs * self.steps_per_epoch),
            decay=learning_rate.parse(learning_rate.CONSTANT if self._scheduled else spec.lr_schedule),
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
        )
        return own_schedule.OwnSchedule(self._own_schedule, ours) if self._scheduled else ours


def _table(weights: Mapping[int, float], classes: int | None) -> np.ndarray | None:
    """The weight of each class; None if there are none."""
    if not weights or classes is None:
        return None
    return np.array([weights.get(index, 1.0) for index in range(classes)], "float32")


def _activation_bytes(model: keras.Model, examples: int) -> int | None:
    """Bytes of the outputs of all layers for so many examples, as float32; None where a shape is not known."""
    try:
        shapes = [tuple(layer.output.shape)[1:] for layer in model.layers]
    except (AttributeError, ValueError):
        return None
    if any(size is None for shape in shapes for size in shape):
        return None
    return 4 * examples * sum(math.prod(shape) for shape in shapes)
