"""Which layers are split and how, and the model after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import activations

from ...errors import RunError, UsageError
from .._shared.clip import Clip
from .._shared.replica import release
from ..trainer import Workload
from ._calls import Call, calls_of
from ._tensor_layers import Columns, Exchange, Part, Rows, Words

How = Literal["columns", "joined columns", "rows", "words"]
"""By columns before a layer that is cut by rows; by columns, and its outputs made whole; and of an Embedding."""

ELEMENTWISE = [
    *(activations.elu, activations.exponential, activations.gelu, activations.hard_sigmoid, activations.hard_silu),
    *(activations.leaky_relu, activations.linear, activations.mish, activations.relu, activations.relu6),
    *(activations.selu, activations.sigmoid, activations.silu, activations.softplus, activations.softsign),
    activations.tanh,
]
"""Activations that need not see all units."""
_SEEN = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
"""Layers that may stand between two of a pair."""
_TOLERANCE = 1e-3
_EXAMPLES = 8


def plan(model: keras.Model, parts: int) -> dict[keras.layers.Layer, How]:
    """How each layer of a model is split in so many parts, where it is. Of two Dense layers in a row, as a pair."""
    found: dict[keras.layers.Layer, How] = {}
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.Dense and _free(layer, layer.units, parts):
            found[layer] = "joined columns"
        elif type(layer) is keras.layers.Embedding and _free(layer, layer.input_dim, parts):
            found[layer] = "words"
    for first, second in _pairs(model):
        if found.get(first) == found.get(second) == "joined columns":
            found[first], found[second] = "columns", "rows"
    return found


def _free(layer: Any, size: int, parts: int) -> bool:
    """Whether nothing is said of its weights that needs all of them."""
    said = [getattr(layer, f"{name}_{kind}", None) for name in ("kernel", "bias", "embeddings") for kind in _KINDS]
    plain = not any(each is not None for each in said) and layer.quantization_mode is None and not layer.lora_enabled
    return plain and layer.trainable and layer.built and size >= parts


_KINDS = ("regularizer", "constraint")


def _pairs(model: keras.Model) -> list[tuple[Any, Any]]:
    """Layers that are called once, one after the other, with nothing between them but what sees single elements."""
    try:
        calls = calls_of(model)
    except UsageError:
        return []
    last = {id(value) for value in keras.tree.flatten(calls.outputs)}
    users: dict[int, list[Call]] = {}
    for call in calls.calls:
        for value in call.inputs:
            users.setdefault(id(value), []).append(call)
    count: dict[int, int] = {}
    for call in calls.calls:
        count[id(call.operation)] = count.get(id(call.operation), 0) + 1

    def following(call: Call) -> Call | None:
        (value, *others) = call.outputs
        after = users.get(id(value), [])
        return after[0] if not others and len(after) == 1 and id(value) not in last else None

    found = []
    for call in calls.calls:
        if not isinstance(call.operation, keras.layers.Dense) or not _elementwise(call.operation):
            continue
        after = following(call)
        while after and isinstance(after.operation, _SEEN) and _elementwise(after.operation):
            after = following(after)
        if after and isinstance(after.operation, keras.layers.Dense):
            pair = (call.operation, after.operation)
            if all(count[id(each)] == 1 for each in pair):
                found.append(pair)
    return found


def _elementwise(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    plain = activation is None or activation in ELEMENTWISE
    return plain and getattr(layer, "activity_regularizer", None) is None


class SplitModel:
    """A model whose layers have been split. Its own ``call`` and loss are as before.

    Attributes:
        model: has this process's parts in place of whole weights.
        exchange: what its layers call.
    """

    def __init__(self, model: keras.Model, hvd: ModuleType, workload: Workload):
        self.model, self._hvd = model, hvd
        self.exchange = Exchange(hvd)
        self._order = list(model.weights)
        self._parts: dict[int, Part] = {}
        hows = plan(model, hvd.size())
        if not hows:
            raise RunError(f"model {model.name} has no layer that can be split")
        x = workload.inputs(keras.tree.map_structure(_some, workload.empty_batch))
        before = keras.tree.map_structure(np.asarray, model(x, training=False))
        for layer, how in hows.items():
            self._split(layer, how)
        after = keras.tree.map_structure(np.asarray, model(x, training=False))
        for one, other in zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True):
            if one.shape != other.shape or np.abs(one - other).max() > _TOLERANCE * np.abs(one).max():
                raise RunError(
                    f"model {model.name} gives other outputs with split layers, as where it uses a layer's weights "
                    "outside of the layer; use split=layers"
                )
        self.exchange.moved_bytes = 0.0

    def _split(self, layer: Any, how: How) -> None:
        size = {"words": "input_dim"}.get(how, "units")
        whole = layer.kernel.shape[0] if how == "rows" else getattr(layer, size)
        sizes = [len(each) for each in np.array_split(range(whole), self._hvd.size())]
        cuts: Mapping[How, tuple[type, Mapping[str, int]]] = {
            "columns": (Columns, {"_kernel": 1, "bias": 0}),
            "joined columns": (Columns, {"_kernel": 1, "bias": 0}),
            "rows": (Rows, {"_kernel": 0}),
            "words": (Words, {"_embeddings": 0}),
        }
        layer.__class__, axes = cuts[how]
        layer.exchange = self.exchange
        layer.sizes = sizes if how == "joined columns" else None
        layer.begin = sum(sizes[: self._hvd.rank()])
        if how == "rows":
            layer.input_spec = None
        for attribute, axis in axes.items():
            variable = getattr(layer, attribute)
            if variable is not None:
                part = self._parts[id(variable)] = Part(variable, axis, sizes, self._hvd.rank())
                layer.replace(attribute, part)
                release(variable)

    def clipped(self, gradients: Sequence[tf.Tensor], clip: Clip) -> Sequence[tf.Tensor]:
        """Gradients of the trained variables, clipped by norms of whole weights."""
        if not clip.by_norm:
            return clip(gradients)
        own = {id(part.variable) for part in self._parts.values()}
        trained = self.model.trainable_variables
        # Of what all processes have, each gives its share.
        shares = tf.constant([1.0 if id(v) in own else 1.0 / self._hvd.size() for v in trained])
        squares = tf.stack([tf.reduce_sum(tf.square(each)) for each in gradients]) * shares
        factors = clip.factors(self._hvd.allreduce(squares, op=self._hvd.Sum, name="squares"))
        return [gradient * factors[place] for place, gradient in enumerate(gradients)]

    def weights(self) -> list[np.ndarray | None]:
        """Whole ones, in the order that they had. Every process calls it."""
        return [
            self._parts[id(each)].whole(self._hvd, f"whole_{place}") if id(each) in self._parts else each.numpy()
            for place, each in enumerate(self._order)
        ]


def _some(empty: np.ndarray) -> np.ndarray:
    """A few examples of numbers that are possible for ids, too."""
    return np.random.default_rng(0).integers(2, size=(_EXAMPLES, *empty.shape[1:])).astype(empty.dtype)
