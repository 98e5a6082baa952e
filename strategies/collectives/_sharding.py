"""A Keras model whose trained weights are sharded over N processes, and whole only while a layer computes.

A layer's weights are one flat buffer, padded to a multiple of N, of which process r keeps part r. All-gather makes it
whole; the derivative of that is the reduce-scatter of the layer's gradients.
Source: Rajbhandari et al., *ZeRO*, SC 2020 (stage 3); Zhao et al., *PyTorch FSDP*, VLDB 2023.

Limits: the layers are the leaves of nested Sequential and Functional models; one that is used twice is gathered twice.
A layer that draws random numbers without a Keras seed generator would draw other ones when it is recomputed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ...errors import RunError
from ._collective import broadcast

_MASK = "_keras_mask"
"""Where Keras attaches a mask to a tensor; a function's boundary loses it."""


class ShardedModel:
    """Takes the model's place in a training step. Its trained weights are the shards.

    Attributes:
        trainable_variables: this process's shards, one a layer.
        variables: the shards, and the variables that are not trained, of which every process has a copy.
        transient_bytes: see `stratbench.strategies.collectives.fsdp`.

    Raises RunError for a model that can't be cut.
    """

    def __init__(self, model: keras.Model, hvd: ModuleType):
        layers = [layer for layer in _leaves(model) if layer.trainable_variables]
        _check(model, layers)
        cut = {id(v) for v in model.trainable_variables}
        # Before the layers are cut, so that the state of every layer starts from rank 0's values.
        rest = [v for v in model.variables if id(v) not in cut]
        broadcast(hvd, rest)
        self._model = model
        self._layers = [ShardedLayer(layer, hvd) for layer in layers]
        self.trainable_variables = [layer.shard for layer in self._layers]
        self.variables = self.trainable_variables + rest
        gathered = [layer.gathered_bytes for layer in self._layers]
        self.transient_bytes = 2 * max(gathered, default=0) + sum(gathered) // hvd.size()

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """The model's predictions."""
        return self._model(x, training=training)

    @property
    def losses(self) -> list[tf.Tensor]:
        """Those of the regularisers in the last call."""
        return self._model.losses

    def get_weights(self) -> list[np.ndarray]:
        """A whole copy in the order of ``model.weights``. Every process calls it."""
        whole: dict[int, np.ndarray] = {}
        for layer in self._layers:
            whole |= {id(v): part.numpy() for v, part in zip(layer.weights, layer.gather(), strict=True)}
        return [whole[id(v)] if id(v) in whole else v.numpy() for v in self._model.weights]


class ShardedLayer:
    """Takes the place of a layer's ``call``: gathers, computes, releases, and does so again in the backward pass.

    Attributes:
        weights: the layer's trained weights, whose memory is released.
        shard: this process's part of them, a 1-D variable.
        gathered_bytes: of the whole buffer, padding included.
    """

    def __init__(self, layer: keras.layers.Layer, hvd: ModuleType):
        self.weights = layer.trainable_variables
        self._state = layer.non_trainable_variables
        self._layer, self._hvd = layer, hvd
        self._regularizers = [v.regularizer for v in self.weights]
        self._sizes = [math.prod(v.shape) for v in self.weights]
        flat = hvd.broadcast(self._flatten([v.value for v in self.weights]), root_rank=0)
        self.gathered_bytes = len(flat) * flat.dtype.size
        own = tf.reshape(flat, (hvd.size(), -1))[hvd.rank()]
        self.shard = keras.Variable(own, dtype=own.dtype.name, name=f"{layer.name}_shard")
        self._call, layer.call = layer.call, self._sharded_call
        for variable in self.weights:
            # `Layer.losses` would read the variable, which is empty from here on; `_trace` sees to it.
            variable.regularizer = None
            _release(variable)

    def gather(self, after: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """The whole weights.

        Args:
            after: what is computed first. Without it, TensorFlow would gather all layers at the start of a step, and
                gather nothing in the backward pass.
        """
        with tf.control_dependencies(after):
            flat = self._hvd.allgather(tf.stop_gradient(self.shard.value), name=f"gather_{self._layer.name}")
        ends = np.cumsum(self._sizes)
        parts = [flat[end - size : end] for end, size in zip(ends, self._sizes, strict=True)]
        return [tf.reshape(part, v.shape) for part, v in zip(parts, self.weights, strict=True)]

    def _flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        padding = tf.zeros([-sum(self._sizes) % self._hvd.size()], tensors[0].dtype)
        return tf.concat([*(tf.reshape(tensor, [-1]) for tensor in tensors), padding], axis=0)

    def _sharded_call(self, *args: Any, **kwargs: Any) -> Any:
        leaves = keras.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if tf.is_tensor(leaf)]
        masks = [getattr(tensor, _MASK, None) for tensor in tensors]
        inputs = ([tf.convert_to_tensor(v.value) for v in self._state], tensors, masks)
        compute = self._trace((args, kwargs), leaves, inputs)
        # The tape records the gradient below, not this computation, whose intermediate results it would keep.
        results = compute(self.gather(after=tensors), *tf.nest.map_structure(_constant, inputs))
        for variable, value in zip(self._state, results["state"], strict=True):
            variable.assign(value)

        @tf.custom_gradient
        def differentiable(shard: tf.Tensor, *tensors: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            return _targets(results), lambda *upstream: self._backward(compute, inputs, upstream)

        flat = differentiable(tf.convert_to_tensor(self.shard.value), *tensors)
        outputs, losses = flat[: len(results["masks"])], flat[len(results["masks"]) :]
        for output, mask in zip(outputs, results["masks"], strict=True):
            if mask is not None:
                setattr(output, _MASK, mask)
        self._layer.add_loss(losses)
        return keras.tree.pack_sequence_as(results["outputs"], outputs)

    def _trace(self, structure: Any, leaves: list[Any], inputs: Any) -> Any:
        """The layer's own computation, as a function of (weights, state, tensors, masks).

        Traced once for both passes, as what Keras keeps beside the arguments (training or not, the precision to cast
        to) holds only now.
        """

        def compute(weights: Any, state: Any, tensors: Any, masks: Any) -> dict[str, Any]:
            for tensor, mask in zip(tensors, masks, strict=True):
                if mask is not None:
                    setattr(tensor, _MASK, mask)
            given = iter(tensors)
            filled = [next(given) if tf.is_tensor(leaf) else leaf for leaf in leaves]
            args, kwargs = keras.tree.pack_sequence_as(structure, filled)
            variables = [*zip(self.weights, weights, strict=True), *zip(self._state, state, strict=True)]
            with keras.StatelessScope(variables, collect_losses=True) as scope:
                outputs = self._call(*args, **kwargs)
            penalties = [r(w) for r, w in zip(self._regularizers, weights, strict=True) if r]
            return {
                "outputs": outputs,
                "losses": scope.losses + penalties,
                "masks": [getattr(output, _MASK, None) for output in keras.tree.flatten(outputs)],
                "state": [scope.get_current_value(v) for v in self._state],
            }

        weights = [tf.TensorSpec(v.shape, v.dtype) for v in self.weights]
        specs = tf.nest.map_structure(lambda t: t if t is None else tf.TensorSpec(t.shape, t.dtype), inputs)
        return tf.function(compute, autograph=False).get_concrete_function(weights, *specs)

    def _backward(self, compute: Any, inputs: Any, upstream: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        """Gradients of the shard, averaged over all processes, and of the call's tensors."""
        sources = [tensor for tensor in inputs[1] if tensor.dtype.is_floating and _depends_on_weights(tensor)]
        weights = self.gather(after=upstream)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*weights, *sources])
            results = compute(weights, *inputs)
        pairs = [pair for pair in zip(_targets(results), upstream, strict=True) if pair[0].dtype.is_floating]
        targets, seeds = zip(*pairs, strict=True)
        of_weights, of_sources = tape.gradient(targets, (weights, sources), seeds, tf.UnconnectedGradients.ZERO)
        # In this order, no more than two buffers of a layer's size are alive: first weights and gradients, then
        # gradients as they came and laid flat, then these and Horovod's copy; and only then goes the next layer.
        # Identities, as waiting for a function's output itself waits for nothing once the function is inlined.
        of_sources = [tf.identity(gradient) for gradient in of_sources]
        with tf.control_dependencies(of_sources):
            flat = self._flatten([tf.convert_to_tensor(gradient) for gradient in of_weights])
        mean = self._hvd.reducescatter(flat, op=self._hvd.Average, name=f"scatter_{self._layer.name}")
        mean.set_shape(self.shard.shape)
        with tf.control_dependencies([mean]):
            passed = {id(s): tf.identity(gradient) for s, gradient in zip(sources, of_sources, strict=True)}
        return [mean, *(passed.get(id(tensor)) for tensor in inputs[1])]


def _targets(results: dict[str, Any]) -> list[tf.Tensor]:
    return [*keras.tree.flatten(results["outputs"]), *results["losses"]]


def _constant(tensor: tf.Tensor | None) -> tf.Tensor | None:
    return None if tensor is None else tf.stop_gradient(tensor)


def _depends_on_weights(tensor: tf.Tensor) -> bool:
    """Whether an all-gather comes before it. If not, as for the examples, its gradient is not needed."""
    seen, todo = set(), [tensor.op] if tf.is_symbolic_tensor(tensor) else []
    while todo:
        op = todo.pop()
        if op.type == "HorovodAllgather":
            return True
        if op not in seen:
            seen.add(op)
            todo += [before.op for before in op.inputs]
    return False


def _release(variable: keras.Variable) -> None:
    """Release the memory of its value. Reading it afterwards fails, as it has no elements."""
    nothing = tf.zeros([0], variable.dtype)
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=nothing, validate_shape=False)


def _is_graph(model: Any) -> bool:
    """Whether the model does nothing but call its layers."""
    # Keras exports no name for the class of Functional models.
    example = keras.Input((1,))
    functional = type(keras.Model(example, example))
    classes = (keras.Sequential, functional)
    return isinstance(model, classes) and type(model).call in [cls.call for cls in classes]


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if _is_graph(layer) else [layer]


def _check(model: keras.Model, layers: list[keras.layers.Layer]) -> None:
    if not _is_graph(model):
        kind = type(model).__name__
        raise RunError(f"fsdp needs a Sequential or Functional model, whose layers it gathers. Received: {kind}.")
    owners = Counter(id(v) for layer in layers for v in layer.trainable_variables)
    for variable in model.trainable_variables:
        if owners[id(variable)] != 1:
            raise RunError(
                "fsdp needs every trained weight in exactly one of the model's layers. "
                f"Received: {variable.path}, in {owners[id(variable)]}."
            )
        if variable.constraint is not None:
            raise RunError(f"fsdp can't hold a constraint on a part of a weight. Received: one on {variable.path}.")
    for layer in layers:
        types = sorted({v.dtype for v in layer.trainable_variables})
        if len(types) > 1:
            raise RunError(f"fsdp needs a layer's weights in one type. Received: {', '.join(types)} in {layer.name}.")
