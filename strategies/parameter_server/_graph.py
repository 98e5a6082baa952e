"""A worker's forward and backward pass as a TensorFlow graph, with weights that are on parameter servers.

The model is called as a pure function on tensors, wherever they were read from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.graph_model import explained, placeholders
from .._shared.lookups import Lookups, Read
from .._shared.moments import moment, not_before
from .._shared.replica import loss_with
from .._shared.update_rules import Gradient
from ..trainer import Mean, Workload
from ._lookup import NOTHING, gradient_of
from ._source import Source

if TYPE_CHECKING:
    import keras

v1 = tf.compat.v1


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward and backward pass on a worker.

    Attributes:
        feeds: placeholders, in the order of the arrays of a flattened batch.
        loss: scalar, mean over the examples fed.
        gradients: in the order of ``model.trainable_variables``; dense, but for tables of which rows are looked up.
        moved: new values of the model's non-trained weights, such as moving statistics, by their place in its weights.
        local: assigns the state that each worker keeps for itself, such as random seeds.
        moments: when all that it fetches had come, weights and rows that are looked up, and when all gradients were
            computed, in Unix seconds. (2,), float64. Of a cut model: see `stratbench.strategies.cut._copy.Copy.times`.
    """

    feeds: list[tf.Tensor]
    loss: tf.Tensor
    gradients: list[Gradient]
    moved: dict[int, tf.Tensor]
    local: tf.Operation
    moments: tf.Tensor


def compute(
    workload: Workload,
    source: Source,
    values: Sequence[tf.Tensor],
    mean: Mean | None = None,
    read: Read = NOTHING,
) -> Pass:
    """Loss and gradients of the model with the weights ``values``, in the order of ``model.weights``.

    Call it in the worker's device: the values are taken there.

    Args:
        mean: see `Workload.total_loss`.
        read: see `Read`. The values of these tables are not used.
    """
    model = source.model
    values = [tf.identity(value) for value in values]
    by_id = {id(weight): value for weight, value in zip(model.weights, values, strict=True)}
    places = {id(weight): place for place, weight in enumerate(model.weights)}
    kept = [state for state in model.non_trainable_variables if id(state) not in by_id]
    own = {id(state): state_variable(str(place), state, source) for place, state in enumerate(kept)}
    batch = placeholders(workload, None)
    fed = tf.nest.flatten(batch)
    trained = [by_id[id(weight)] for weight in model.trainable_variables]
    fixed = [
        own[id(state)].read_value() if id(state) in own else by_id[id(state)] for state in model.non_trainable_variables
    ]
    # Nothing is computed before all weights have come, so that computing begins there.
    came = Came()
    used = [value for weight, value in zip(model.weights, values, strict=True) if id(weight) not in read]
    batch = tf.nest.pack_sequence_as(batch, came.held(used, fed))
    lookups = Lookups({key: came.rows(reader) for key, reader in read.items()})
    with explained(), lookups.recorded():
        loss, moved = loss_with(workload, model, trained, fixed, batch, mean)
    states = list(zip(model.non_trainable_variables, moved, strict=True))
    gradients = _gradients(model, loss, trained, lookups, read)
    return Pass(
        feeds=fed,
        loss=loss,
        gradients=gradients,
        moved={places[id(state)]: value for state, value in states if id(state) in places},
        local=tf.group(
            *[own[id(state)].assign(value, read_value=False) for state, value in states if id(state) in own]
        ),
        moments=came.until([loss, *gradients]),
    )


def _gradients(
    model: keras.Model, loss: tf.Tensor, trained: Sequence[tf.Tensor], lookups: Lookups, read: Read
) -> list[Gradient]:
    """In the order of ``model.trainable_variables``, whose values ``trained`` are."""
    dense = {id(v): value for v, value in zip(model.trainable_variables, trained, strict=True) if id(v) not in read}
    found = dict(zip(dense, tf.gradients(loss, list(dense.values()), unconnected_gradients="zero"), strict=True))
    return [
        tf.convert_to_tensor(found[id(v)]) if id(v) in found else gradient_of(loss, lookups, v)
        for v in model.trainable_variables
    ]


class Came:
    """When all that a worker's pass needs had come. Make it in the worker's device."""

    def __init__(self) -> None:
        self._moments: list[tf.Tensor] = []

    def held(self, needed: Sequence[tf.Tensor], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The tensors, `not_before` all that is needed has come."""
        self._moments.append(moment(needed))
        return not_before(self._moments[-1], tensors)

    def rows(self, read: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        """The same reader, whose rows count as needed."""

        def held(ids: tf.Tensor) -> tf.Tensor:
            here = tf.identity(read(ids))
            return self.held([here], [here])[0]

        return held

    def until(self, ends: Sequence[Gradient]) -> tf.Tensor:
        """See `Pass.moments`."""
        return tf.stack([tf.reduce_max(tf.stack(self._moments)), moment(ends)])


def state_variable(name: str, state: Any, source: Source) -> tf.Variable:
    """State that is not a weight, such as a dropout layer's seed: each worker keeps its own."""
    return v1.get_variable(
        f"state_{name}_{state.path}".replace("/", "_"),
        initializer=tf.constant(source.state[id(state)]),
        use_resource=True,
        trainable=False,
        collections=[v1.GraphKeys.LOCAL_VARIABLES],
    )
