"""Shared by the strategies that build a Keras model eagerly in each process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import tensorflow as tf

from ...errors import RunError
from ..trainer import Batch, Mean, Memory, Split, StepResult, Structure, Trainer, Workload, examples_of
from .accumulation import Steps
from .lookups import Lookups, each_row_once
from .marks import Marked, marked, on_cpus, split_of
from .own_step import OwnStep, mean_of

if TYPE_CHECKING:
    import keras
    import numpy as np


def loss_and_gradients(
    workload: Workload,
    model: keras.Model,
    batch: Batch,
    optimizer: keras.optimizers.Optimizer | None = None,
    scale: float = 1.0,
    mean: Mean | None = None,
    rows: Callable[[int, int | None], bool] | None = None,
) -> tuple[tf.Tensor, list[tf.Tensor | tf.IndexedSlices]]:
    """The workload's total loss over a batch of tensors, and its gradients. XLA compiles them as `Workload.jit` says.

    Args:
        optimizer: that is then given gradients of the loss as it scales it. By default the loss is not scaled.
        scale: factor on the gradients only; 1/N if they are then summed over N replicas.
        mean: see `Workload.total_loss`.
        rows: (place of an embedding table among the trained weights, how many ids are looked up there) → whether its
            gradient shall hold only these rows, each once. All others are dense, and so is that of a table that the
            model uses in another way, too. Compiled gradients are all dense.
    """
    if not workload.jit:
        return _loss_and_gradients(workload, model, batch, optimizer, scale, mean, rows)

    @tf.function(autograph=False, jit_compile=True)
    def compiled(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return _loss_and_gradients(workload, model, batch, optimizer, scale, mean, None)

    return compiled(batch)


def _loss_and_gradients(
    workload: Workload,
    model: keras.Model,
    batch: Batch,
    optimizer: keras.optimizers.Optimizer | None,
    scale: float,
    mean: Mean | None,
    rows: Callable[[int, int | None], bool] | None,
) -> tuple[tf.Tensor, list[tf.Tensor | tf.IndexedSlices]]:
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        lookups = Lookups({id(v): _reader(v.value, tape) for v in model.trainable_variables} if rows else {})
        with lookups.recorded():
            loss = workload.total_loss(model, batch, mean)
        scaled = optimizer.scale_loss(loss) if optimizer else loss
        # In the backward pass a replica's gradients are then as large as one replica's part of them for the whole
        # batch, so that they become infinite at the same scale.
        parts = workload.replicas if optimizer and workload.scales_loss and scale == 1.0 else 1
        factor = scale / parts
        scaled = scaled * factor if factor != 1.0 else scaled
    pairs = {key: list(zip(*each, strict=True)) for key, each in lookups.found.items()}
    looked_up = {key: found for key, (_, found) in pairs.items()}
    gradients, of_rows = tape.gradient(scaled, (variables, looked_up))

    def gradient(place: int, variable: keras.Variable) -> tf.Tensor | tf.IndexedSlices:
        whole = gradients[place]
        if id(variable) not in pairs:
            return tf.zeros_like(variable.value) if whole is None else tf.convert_to_tensor(whole)
        ids, found = pairs[id(variable)]
        parts = zip(of_rows[id(variable)], found, strict=True)
        sparse = each_row_once(ids, [tf.zeros_like(f) if g is None else g for g, f in parts], variable.shape)
        if whole is None and rows and rows(place, lookups.ids[id(variable)]):
            return sparse
        dense = tf.math.unsorted_segment_sum(sparse.values, sparse.indices, variable.shape[0])
        return dense if whole is None else dense + tf.convert_to_tensor(whole)

    found = [gradient(place, variable) for place, variable in enumerate(model.trainable_variables)]
    return loss, [each * parts for each in found] if parts > 1 else found


def _reader(table: tf.Variable, tape: tf.GradientTape) -> Callable[[tf.Tensor], tf.Tensor]:
    """Reads rows as if they were weights of their own."""

    def read(ids: tf.Tensor) -> tf.Tensor:
        with tape.stop_recording():
            found = table.sparse_read(ids)
        tape.watch(found)
        return found

    return read


@contextmanager
def keeps_trained(scope: keras.StatelessScope, trained: Sequence[keras.Variable]) -> Iterator[None]:
    """Around a call of the model in that scope. Raises RunError if it assigns a trained weight, which would be lost."""
    before = [scope.get_current_value(variable) for variable in trained]
    yield
    for variable, value in zip(trained, before, strict=True):
        if scope.get_current_value(variable) is not value:
            raise RunError(
                f"the model's call assigns {variable.path}, as SpectralNormalization does, which is lost where weights "
                "are held elsewhere; use single, mirrored, multiworker or horovod"
            )


def loss_with(
    workload: Workload,
    model: keras.Model,
    trained: Sequence[tf.Tensor],
    fixed: Sequence[tf.Tensor],
    batch: Batch,
    mean: Mean | None = None,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The workload's total loss with these weights, and new values of the variables that are not trained.

    Unlike ``model.stateless_call``, which calls the model's ``call`` by itself: layers to which it does not pass
    ``training`` would behave as in evaluation.

    Args:
        trained: values in the order of ``model.trainable_variables``.
        fixed: values in the order of ``model.non_trainable_variables``.
        mean: see `Workload.total_loss`.
    """
    import keras

    trainable = zip(model.trainable_variables, trained, strict=True)
    others = zip(model.non_trainable_variables, fixed, strict=True)
    # Of metrics that the loss updates, as that of several outputs does. Nobody reads them.
    metrics = [(variable, tf.zeros(variable.shape, variable.dtype)) for variable in model.metrics_variables]
    with (
        keras.StatelessScope([*trainable, *others, *metrics], collect_losses=True) as scope,
        keeps_trained(scope, model.trainable_variables),
    ):
        loss = workload.total_loss(model, batch, mean)
    return loss, [scope.get_current_value(variable) for variable in model.non_trainable_variables]


class KerasTrainer(Trainer):
    """Runs one ``tf.function`` a step. The strategy gives its body; this feeds it and sets the learning rate.

    Args:
        steps: the body of a step that ends with an update, and that of one that does not.
        around: makes of such a body that of the whole process; by default they are the same. It gives the moments of
            all replicas: see `marks`.
        copies: of the model, in this process.
    """

    memory: Memory

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        workload: Workload,
        steps: Steps,
        around: Callable[[Marked], Marked] = lambda body: body,
        rank: int = 0,
        shards: int = 1,
        copies: int = 1,
        count: int = 1,
    ):
        self.model = model
        self.optimizer = optimizer
        self.rank = self.shard = rank
        self.shards, self.count = shards, count
        self._workload = workload
        # Without AutoGraph, as in Keras's own fit: its code would stay in the temporary folder after a kill.
        self._update = tf.function(around(marked(steps.update)), reduce_retracing=True, autograph=False)
        self._add = steps.add and tf.function(around(marked(steps.add)), reduce_retracing=True, autograph=False)
        # On GPUs, no exchange is marked.
        self._hidden = workload.replicas > 1 and not on_cpus()
        self._steps = 0
        self._own = steps if isinstance(steps, OwnStep) else None
        self._logged: list[Mapping[str, float]] = []
        self._learning_rate: float | None = None
        state = size_bytes(optimizer.variables) + size_bytes(steps.sums)
        self.memory = Memory(copies * size_bytes(model.variables), copies * state)

    def trace(self) -> None:
        """Build the graphs before the first step, for what is known only then."""
        for body in (self._update, self._add):
            if body:
                body.get_concrete_function(self._specs())

    def _specs(self, *before: int | None) -> Structure:
        """Shapes and types of a batch, or of several with these axes before."""
        examples = self._workload.global_batch // self.shards * self.count
        return tf.nest.map_structure(
            lambda like: tf.TensorSpec((*before, examples, *like.shape[1:]), like.dtype), self._workload.empty_batch
        )

    def repeated(self) -> tuple[Callable[[Batch, np.ndarray], list[float]], bool]:
        """Runs several steps in one call: batches, stacked along a new first axis, and learning rates → losses.

        Also whether all of a call is computing, as nothing is exchanged in it.
        """
        step = self._update.get_concrete_function(self._specs())
        kind, rate = step.structured_outputs[0].dtype, self.optimizer.learning_rate.value

        @tf.function(autograph=False, input_signature=[self._specs(None), tf.TensorSpec((None,), tf.float32)])
        def run(batches: Batch, rates: tf.Tensor) -> tf.Tensor:
            count = tf.shape(rates)[0]

            def one(place: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
                rate.assign(rates[place], read_value=False)
                result, *_ = self._update(tf.nest.map_structure(lambda each: each[place], batches))
                return place + 1, found.write(place, result)

            # One after the other: each uses the weights of the one before.
            _, found = tf.while_loop(
                lambda place, _: place < count, one, (0, tf.TensorArray(kind, count)), parallel_iterations=1
            )
            return found.stack()

        def results(batches: Batch, rates: np.ndarray) -> list[float]:
            self._steps += len(rates)
            return [self._read(each) for each in run(batches, rates).numpy()]

        return results, not self._hidden and len(step.structured_outputs) == 1

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`. Reading the loss waits for the device, so that the step is over on return."""
        begin = time.perf_counter()
        if learning_rate != self._learning_rate:
            # Keras's own assignment takes four times as long, which a schedule would add to every step.
            self.optimizer.learning_rate.value.assign(learning_rate, read_value=False)
            self._learning_rate = learning_rate
        self._steps += 1
        body = self._add if self._add and self._steps % self._workload.accumulate else self._update
        result, *marked_at = body(batch)
        loss, examples = self._read(result.numpy()), examples_of(batch)
        seconds = time.perf_counter() - begin
        alone = None if self._hidden else Split(seconds)
        split = split_of(seconds, marked_at[0].numpy()) if marked_at else alone
        return StepResult(loss if examples else None, examples, split=split)

    def _read(self, result: np.ndarray) -> float:
        """The loss of a step. Notes what else the model's own step returned."""
        if self._own is None:
            return float(result)
        loss, *others = result.tolist()
        self._logged.append(dict(zip(self._own.names, others, strict=True)))
        return loss

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        found, self._logged = mean_of(self._logged), []
        return found

    def skipped_updates(self) -> int | None:
        """See `Trainer.skipped_updates`."""
        return skipped_updates(self._workload, self.optimizer, self._steps)

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self.model.get_weights()


def skipped_updates(workload: Workload, optimizer: keras.optimizers.Optimizer, steps: int) -> int | None:
    """See `Trainer.skipped_updates`. Keras does not count them, but those that it applied."""
    if not workload.scales_loss:
        return None
    return steps // workload.accumulate - int(optimizer.iterations.numpy())


def release(variable: keras.Variable) -> None:
    """Release the memory of its value. Reading it afterwards fails, as it has no elements."""
    nothing = tf.zeros([0], variable.dtype)
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=nothing, validate_shape=False)


def size_bytes(variables: Iterable[keras.Variable | tf.Variable]) -> int:
    """Bytes of all the variables."""
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def use_gpu(local_index: int) -> None:
    """Show this process one GPU only, where there are any."""
    devices = tf.config.list_physical_devices("GPU")
    if devices:
        tf.config.set_visible_devices(devices[local_index % len(devices)], "GPU")
