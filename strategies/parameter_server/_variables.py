"""Variables on ps tasks, which all graphs have under the same names, and those that a worker keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.replica import size_bytes
from ..trainer import Memory

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


def read(variable: tf.Variable) -> tf.Tensor:
    """Its value, where it is."""
    with tf.device(variable.device):
        return variable.read_value()


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


def own_variable(name: str, like: tf.Variable | keras.Variable) -> tf.Variable:
    """A worker's own variable, in the shape of another one; it starts from zeros."""
    return v1.get_variable(
        name.replace("/", "_"),
        like.shape,
        tf.as_dtype(like.dtype),
        v1.zeros_initializer(),
        use_resource=True,
        trainable=False,
        collections=[v1.GraphKeys.LOCAL_VARIABLES],
    )
