"""A Keras 3 model as a TensorFlow graph whose variables live on parameter servers.

The model is called as a pure function on tensors, wherever they were read from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .._shared.clip import Clip
from .._shared.graph_model import explained, keep_constants, placeholders, rules_of
from .._shared.keras_rule import KerasRule
from .._shared.lookups import Lookups, Read
from .._shared.moments import moment, not_before
from .._shared.replica import loss_with, size_bytes
from .._shared.update_rules import Gradient, Update, update_of
from ..trainer import Mean, Memory, Workload
from ._lookup import NOTHING, gradient_of

if TYPE_CHECKING:
    import keras

v1 = tf.compat.v1
FIRST = "/job:ps/task:0/cpu:0"
"""The ps task that counts updates and keeps the clocks."""
_STAGING = "staging"
"""Collection of the variables that hold gradients in transit."""


def on_server(server: int) -> str:
    """Device of that ps task."""
    return f"/job:ps/task:{server}/cpu:0"


def server_of(device: str) -> int:
    """Index of the ps task of a device."""
    return int(tf.DeviceSpec.from_string(device).task)


@dataclasses.dataclass(frozen=True)
class Source:
    """The Keras model and the values of its variables, which can only be read outside of a graph.

    Attributes:
        weights: in the order of ``model.weights``.
        state: by the id of each non-trainable Keras variable.
        rules: by the id of each trained Keras variable, if its update has no kernel.
    """

    model: keras.Model
    weights: list[np.ndarray]
    state: dict[int, np.ndarray]
    rules: dict[int, KerasRule]

    @classmethod
    def of(cls, workload: Workload) -> Source:
        """Build the model and read the values; call it eagerly."""
        model = workload.model()
        keep_constants(model)
        state = {id(v): v.numpy() for v in model.non_trainable_variables}
        return cls(model, model.get_weights(), state, rules_of(workload, model))


@dataclasses.dataclass(frozen=True)
class Shared:
    """The model's weights on ps tasks, their updates, and the learning rate of these.

    Attributes:
        weights: in the order of ``model.weights``.
        trained: of these, the trained ones, in the order of ``model.trainable_variables``.
        places: where each of `trained` is in `weights`.
        updates: one a trained weight.
        clip: of the gradients, before they are applied.
        learning_rate: placeholder of `set_learning_rate`. The ps tasks keep the rate, so a step does not send it.
    """

    weights: list[tf.Variable]
    trained: list[tf.Variable]
    places: list[int]
    updates: list[Update]
    clip: Clip
    learning_rate: tf.Tensor
    set_learning_rate: tf.Operation

    def apply(self, gradients: Sequence[Gradient]) -> list[tf.Operation]:
        """Update every trained weight by its gradient, which is on the weight's ps task."""
        # The rows that a gradient leaves out are 0: they change no norm.
        values = self.clip([each.values if isinstance(each, tf.IndexedSlices) else each for each in gradients])
        clipped = [
            tf.IndexedSlices(each, whole.indices, whole.dense_shape) if isinstance(whole, tf.IndexedSlices) else each
            for whole, each in zip(gradients, values, strict=True)
        ]
        return [update(gradient) for update, gradient in zip(self.updates, clipped, strict=True)]


def share(
    workload: Workload, source: Source, servers: Sequence[int], worker: int | None = None, lock: bool = False
) -> Shared:
    """Define the variables on the ps tasks ``servers``, balanced by size; every task's graph has the same ones.

    Args:
        worker: whose updates these are, with its own learning rate; None for a rate that all workers share.
        lock: whether an update locks its variable. Without a lock, two updates may overwrite parts of each other
            (Hogwild).
    """
    placement = balance(source.model.weights, servers)
    # Numbered, as layers of two models within the model may have the same names.
    by_id = {
        id(weight): shared_variable(f"{place}/{weight.path}", server, weight.shape, weight.dtype, weight.trainable)
        for place, (weight, server) in enumerate(zip(source.model.weights, placement, strict=True))
    }
    server_of = {id(weight): server for weight, server in zip(source.model.weights, placement, strict=True)}
    rates = {server: _rate(worker, server) for server in servers}
    learning_rate = v1.placeholder(tf.float32, (), name="learning_rate")
    trained = source.model.trainable_variables
    place_of = {id(weight): place for place, weight in enumerate(source.model.weights)}
    return Shared(
        weights=[by_id[id(weight)] for weight in source.model.weights],
        trained=[by_id[id(weight)] for weight in trained],
        places=[place_of[id(weight)] for weight in trained],
        updates=[
            update_of(
                by_id[id(weight)],
                rates[server_of[id(weight)]],
                workload.optimizer_settings,
                lock,
                source.rules.get(id(weight)),
            )
            for weight in trained
        ],
        clip=Clip.of(workload.optimizer_settings),
        learning_rate=learning_rate,
        set_learning_rate=tf.group(*[each.assign(learning_rate, read_value=False) for each in rates.values()]),
    )


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
            computed, in Unix seconds. (2,), float64.
    """

    feeds: list[tf.Tensor]
    loss: tf.Tensor
    gradients: list[Gradient]
    moved: dict[int, tf.Tensor]
    local: tf.Operation
    moments: tf.Tensor

    def move(self, weights: Sequence[tf.Variable]) -> list[tf.Operation]:
        """Assign the moved values to ``weights``, in the order of ``model.weights``."""
        return [weights[place].assign(value, read_value=False) for place, value in self.moved.items()]


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
    own = {id(state): _local(place, state, source) for place, state in enumerate(kept)}
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


def memory_of(server: int, weights: Sequence[tf.Variable]) -> Memory:
    """What a ps task holds in the default graph: of ``weights``, of gradients in transit, of optimizer state."""
    here = [variable for variable in v1.global_variables() if variable.device == _full(server)]
    known = {id(variable) for variable in weights}
    staging = {id(variable) for variable in v1.get_collection(_STAGING)}
    return Memory(
        weights_bytes=size_bytes([variable for variable in here if id(variable) in known]),
        optimizer_bytes=size_bytes([variable for variable in here if id(variable) not in known | staging]),
        transient_bytes=size_bytes([variable for variable in here if id(variable) in staging]) if staging else None,
    )


def _full(server: int) -> str:
    return f"/job:ps/task:{server}/device:CPU:0"


def balance(weights: Sequence[Any], servers: Sequence[int]) -> list[int]:
    """The ps task of each weight: largest first, each to the task with the fewest bytes so far."""
    sizes = [math.prod(weight.shape) for weight in weights]
    loads = dict.fromkeys(servers, 0)
    placement = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        server = min(loads, key=lambda task: loads[task])
        loads[server] += sizes[index]
        placement[index] = server
    return placement


def shared_variable(name: str, server: int, shape: Any, dtype: Any, trainable: bool = False) -> tf.Variable:
    """A variable on a ps task, which every task knows by its name. Starts from zeros unless given other values."""
    with tf.device(on_server(server)):
        return v1.get_variable(
            name.replace("/", "_"),
            shape,
            tf.as_dtype(dtype),
            v1.zeros_initializer(),
            use_resource=True,
            trainable=trainable,
        )


def staging_variable(like: tf.Variable, rows: int) -> tf.Variable:
    """Where workers write their gradients of a variable, a row each, on the same ps task."""
    staging = shared_variable(f"{like.op.name}_staging", server_of(like.device), (rows, *like.shape), like.dtype)
    v1.add_to_collection(_STAGING, staging)
    return staging


def own_variable(name: str, like: tf.Variable) -> tf.Variable:
    """A worker's own variable, in the shape of a shared one; it starts from zeros."""
    return v1.get_variable(
        f"{name}_{like.op.name}",
        like.shape,
        like.dtype,
        v1.zeros_initializer(),
        use_resource=True,
        trainable=False,
        collections=[v1.GraphKeys.LOCAL_VARIABLES],
    )


def _rate(worker: int | None, server: int) -> tf.Variable:
    if worker is None:
        return shared_variable(f"learning_rate_{server}", server, (), tf.float32)
    with tf.device(on_server(server)):
        return v1.get_variable(
            f"learning_rate_{server}_of_{worker}",
            (),
            tf.float32,
            v1.zeros_initializer(),
            use_resource=True,
            trainable=False,
            # It is this worker's: no other one initialises it, or waits for it.
            collections=[v1.GraphKeys.LOCAL_VARIABLES],
        )


def _local(place: int, state: Any, source: Source) -> tf.Variable:
    """State that is not a weight, such as a dropout layer's seed: each worker keeps its own."""
    return v1.get_variable(
        f"state_{place}_{state.path}".replace("/", "_"),
        initializer=tf.constant(source.state[id(state)]),
        use_resource=True,
        trainable=False,
        collections=[v1.GraphKeys.LOCAL_VARIABLES],
    )
