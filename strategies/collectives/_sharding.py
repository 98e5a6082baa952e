"""A Keras model whose trained weights are sharded over N processes, and whole only while a step needs them.

The weights of a layer, or of several small ones, are a unit: one flat buffer, padded to a multiple of N, of which
process r keeps part r. All-gather makes it whole. The gradients are laid flat in the same way; an all-to-all gives each
process what all computed for its part, and their mean is the reduce-scatter. (Horovod's own reduce-scatter over Gloo
took three times as long.)
Source: Rajbhandari et al., *ZeRO*, SC 2020 (stage 3); Zhao et al., *PyTorch FSDP*, VLDB 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf

from ...errors import RunError
from .._shared import marks
from .._shared.clip import Clip
from .._shared.replica import loss_with, release, size_bytes
from .._shared.whole_weights import skip_constraints
from ..trainer import Batch, Workload
from ._collective import broadcast, mean_over_ranks
from ._reshard import plan
from ._step_order import StepOrder, UnitInStep

_ALIGNED = 64
"""Bytes. TensorFlow slices a buffer without a copy where it begins and ends at a multiple of these."""


class ShardedModel:
    """Takes the model's place in a training step. Its trained weights are the shards.

    Attributes:
        trainable_variables: this process's shards, one a unit.
        variables: the shards, and the variables that are not trained, of which every process has a copy.
        transient_bytes: see `stratbench.strategies.collectives.fsdp`; 0 before `loss_and_gradients` is called.
        traffic_bytes: what all processes send and receive in a step; 0 before that, too.

    Args:
        release: whether weights are released between the forward and the backward pass, where two buffers of the
            largest layer don't hold them.

    Raises RunError for a model that can't be cut.
    """

    def __init__(self, model: keras.Model, hvd: ModuleType, release: bool):
        if reason := skip_constraints(model):
            raise RunError(reason)
        cut = {id(v) for v in model.trainable_variables}
        # Before the weights are cut, so that all state starts from rank 0's values.
        rest = [v for v in model.variables if id(v) not in cut]
        broadcast(hvd, rest)
        self._model, self._hvd, self._size = model, hvd, hvd.size()
        self._units = [Unit(number, weights, hvd) for number, weights in enumerate(_packed(list(_layers(model))))]
        whole = [unit.size_bytes for unit in self._units]
        self._budget = 2 * max(whole, default=0) + sum(whole) // hvd.size() if release else math.inf
        self.trainable_variables = [unit.shard for unit in self._units]
        self.variables = self.trainable_variables + rest
        self.transient_bytes = self.traffic_bytes = 0

    def loss_and_gradients(self, workload: Workload, batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Mean loss over this process's batch, with the model's own, and the shards' gradients, averaged over all.

        Call it while the graph of a step is built: it sets the order in which TensorFlow computes it.
        """
        gathered = [unit.gather("gather") for unit in self._units]
        weights = [unit.weights_in(flat) for unit, flat in zip(self._units, gathered, strict=True)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss = self._loss(workload, batch, weights)
        gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [[tf.convert_to_tensor(g) for g in each] for each in gradients]
        order = StepOrder(loss, [UnitInStep(*each) for each in zip(gathered, gradients, strict=True)])
        uses = order.uses([unit.size_bytes for unit in self._units])
        steps = plan(uses, self._size, self._budget)
        self.transient_bytes = steps.peak_bytes
        moved = [use.size_bytes * (3 - (again is None)) for use, again in zip(uses, steps.gather_again, strict=True)]
        self.traffic_bytes = 2 * (self._size - 1) * sum(moved)
        order.delay_gathers(steps, uses)
        order.mark_forward()
        means = order.order_backward(
            steps,
            lambda position: self._units[position].gather("gather_again"),
            lambda position: self._units[position].scatter(gradients[position]),
        )
        marks.ready([each for own in gradients for each in own])
        marks.came(means)
        return loss, means

    def _loss(self, workload: Workload, batch: Batch, weights: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
        """The loss with these weights. The variables that are not trained get their new values."""
        whole = self._by_variable(weights)
        trained = [whole[id(v)] for v in self._model.trainable_variables]
        fixed = [v.value for v in self._model.non_trainable_variables]
        loss, state = loss_with(workload, self._model, trained, fixed, batch, mean_over_ranks(self._hvd))
        for variable, value in zip(self._model.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return loss

    def clipped(self, means: Sequence[tf.Tensor], clip: Clip) -> Sequence[tf.Tensor]:
        """The shards' gradients, clipped by norms of whole weights: one all-reduce of a number for each weight."""
        if not clip.by_norm:
            return clip(means)
        own = [unit.squares(mean) for unit, mean in zip(self._units, means, strict=True)]
        marks.ready(own)
        squares = self._hvd.allreduce(tf.concat(own, 0), op=self._hvd.Sum, name="squares")
        marks.came([squares])
        factors = tf.split(clip.factors(squares), [len(unit.weights) for unit in self._units])
        return [unit.scaled(*each) for unit, each in zip(self._units, zip(means, factors, strict=True), strict=True)]

    def get_weights(self) -> list[np.ndarray]:
        """A whole copy in the order of ``model.weights``. Every process calls it."""
        parts = [unit.weights_in(unit.gather("gather_copy")) for unit in self._units]
        whole = {name: part.numpy() for name, part in self._by_variable(parts).items()}
        return [whole[id(v)] if id(v) in whole else v.numpy() for v in self._model.weights]

    def _by_variable(self, weights: Sequence[Sequence[tf.Tensor]]) -> dict[int, tf.Tensor]:
        """The weights of all units, by the ``id`` of the variables that they stand for."""
        pairs = zip(self._units, weights, strict=True)
        return {id(v): tensor for unit, own in pairs for v, tensor in zip(unit.weights, own, strict=True)}


class Unit:
    """Some weights of one type, of which this process holds a part.

    Attributes:
        weights: the variables, whose memory is released. Those that can be sliced without a copy are first.
        shard: this process's part of them, a 1-D variable.
        size_bytes: of the whole buffer, padding included.
    """

    def __init__(self, number: int, weights: Sequence[keras.Variable], hvd: ModuleType):
        self.weights = sorted(weights, key=lambda v: size_bytes([v]) % _ALIGNED != 0)
        self._number, self._hvd = number, hvd
        flat = hvd.broadcast(self._flatten([v.value for v in self.weights]), root_rank=0)
        self.size_bytes = len(flat) * flat.dtype.size
        own = tf.reshape(flat, (hvd.size(), -1))[hvd.rank()]
        self.shard = keras.Variable(own, dtype=own.dtype.name, name=f"shard_{number}")
        for variable in self.weights:
            release(variable)

    def gather(self, name: str) -> tf.Tensor:
        """The whole buffer. The name must be another one for each gather that may go on at the same time."""
        return self._hvd.allgather(self.shard.value, name=f"{name}_{self._number}")

    def weights_in(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """The weights as they are in the buffer."""
        ends = np.cumsum([0, *(math.prod(v.shape) for v in self.weights)])
        parts = [flat[start:end] for start, end in pairwise(ends)]
        return [tf.reshape(part, v.shape) for part, v in zip(parts, self.weights, strict=True)]

    def scatter(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """The gradient of the shard: the mean of all processes' gradients."""
        received = self._hvd.alltoall(self._flatten(gradients), name=f"scatter_{self._number}")
        return tf.reduce_mean(tf.reshape(received, (self._hvd.size(), *self.shard.shape)), axis=0)

    def squares(self, mean: tf.Tensor) -> tf.Tensor:
        """Of the shard's gradient, the sum of squares that belongs to each weight. → (weights,)"""
        parts = tf.split(mean, self._elements())[:-1]
        return tf.stack([tf.reduce_sum(tf.square(part)) for part in parts])

    def scaled(self, mean: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        """The shard's gradient, with what belongs to each weight multiplied by that weight's factor."""
        return mean * tf.repeat(tf.concat([factors, [1]], 0), self._elements())

    def _elements(self) -> list[int]:
        """How many elements of the shard belong to each weight, and to none."""
        begin = self._hvd.rank() * self.shard.shape[0]
        ends = np.cumsum([0, *(math.prod(v.shape) for v in self.weights)])
        inside = np.diff(np.clip(ends - begin, 0, self.shard.shape[0]))
        return [*inside.tolist(), self.shard.shape[0] - int(inside.sum())]

    def _flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        elements = sum(math.prod(v.shape) for v in self.weights)
        padding = tf.zeros([-elements % self._hvd.size()], tensors[0].dtype)
        return tf.concat([*(tf.reshape(tensor, [-1]) for tensor in tensors), padding], axis=0)


def _layers(model: keras.Model) -> Iterator[list[keras.Variable]]:
    """The trained weights of each layer; those of a model within the model by its own layers."""
    seen: set[int] = set()

    def leaves(layer: keras.layers.Layer) -> Iterator[list[keras.Variable]]:
        for inner in getattr(layer, "layers", None) or ():
            yield from leaves(inner)
        own = [v for v in layer.trainable_variables if id(v) not in seen]
        seen.update(map(id, own))
        if own:
            yield own

    return leaves(model)


def _packed(layers: Sequence[Sequence[keras.Variable]]) -> list[list[keras.Variable]]:
    """The layers as units. Small ones that follow one another are one, which is no larger than the largest layer."""
    most = max(map(size_bytes, layers), default=0)
    units: list[list[keras.Variable]] = []
    for weights in layers:
        for dtype in sorted({v.dtype for v in weights}):
            own = [v for v in weights if v.dtype == dtype]
            if units and units[-1][0].dtype == dtype and size_bytes(units[-1] + own) <= most:
                units[-1] += own
            else:
                units.append(own)
    return units
