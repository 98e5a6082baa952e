"""A Keras 3 model as a TensorFlow graph whose variables live on parameter servers.

The model is called as a pure function (``stateless_call``) on variables of the graph. Keras's ``stateless_apply`` is
refused on TensorFlow, so updates use the in-place kernels that compute what Keras's optimizers compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .base import Workload

if TYPE_CHECKING:
    import keras

Update = Callable[[tf.Tensor], tf.Operation]
"""gradient → the operation that applies it in place, on the variable's own ps task."""

Rule = Callable[[tf.Variable, tf.Variable, Mapping[str, Any]], Update]
"""(variable, learning rate, optimizer settings) → its update."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """The worker's part of a between-graph replicated job.

    Attributes:
        x, y: placeholders to feed.
        learning_rate: placeholder of `set_learning_rate`, which keeps it on the ps tasks: a step need not send it.
        loss: scalar, mean over the examples fed.
        gradients: of the trainable variables, dense, in the order of ``model.trainable_variables``.
        updates: one per trainable variable.
        moving: operations that assign the shared non-trainable variables, such as moving statistics.
        local: operations that assign what each worker keeps for itself, such as random seeds.
        variables: of the model, in the order of ``model.weights``.
        trainable: of these, the ones that are trained.
        initial: the values to start from, in the order of `variables`.
    """

    x: tf.Tensor
    y: tf.Tensor
    learning_rate: tf.Tensor
    set_learning_rate: tf.Operation
    loss: tf.Tensor
    gradients: list[tf.Tensor]
    updates: list[Update]
    moving: list[tf.Operation]
    local: list[tf.Operation]
    variables: list[tf.Variable]
    trainable: list[tf.Variable]
    initial: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """The Keras model and its state's values, which can only be read outside of a graph.

    Attributes:
        weights: in the order of ``model.weights``.
        state: by the id of each non-trainable Keras variable.
    """

    model: keras.Model
    weights: list[np.ndarray]
    state: dict[int, np.ndarray]

    @classmethod
    def of(cls, model: keras.Model) -> Source:
        """Read the values; call it eagerly."""
        return cls(model, model.get_weights(), {id(v): v.numpy() for v in model.non_trainable_variables})


def build(workload: Workload, source: Source, servers: int, worker: int) -> Graph:
    """Put the model's variables on ``servers`` ps tasks and its computation on this worker, in the default graph."""
    model = source.model
    placement = _balance(model.weights, servers)
    by_id = {
        id(weight): _variable(weight.shape, weight.dtype, weight.path, server, weight.trainable)
        for weight, server in zip(model.weights, placement, strict=True)
    }
    trainable = [by_id[id(weight)] for weight in model.trainable_variables]
    fixed = [
        by_id[id(state)] if id(state) in by_id else _local(state, source) for state in model.non_trainable_variables
    ]

    x = tf.compat.v1.placeholder(tf.as_dtype(workload.input_dtype), (None, *workload.input_shape), name="x")
    y = tf.compat.v1.placeholder(tf.int32, (None,), name="y")
    learning_rate = tf.compat.v1.placeholder(tf.float32, (), name="learning_rate")

    values = [variable.read_value() for variable in trainable]
    predictions, moved, losses = model.stateless_call(
        values,
        [variable.read_value() for variable in fixed],
        workload.inputs(x),
        training=True,
        return_losses=True,
    )
    loss = workload.loss(y, predictions)
    if losses:
        loss += tf.add_n(losses)
    gradients = [
        tf.zeros_like(value) if gradient is None else tf.convert_to_tensor(gradient)
        for value, gradient in zip(values, tf.gradients(loss, values), strict=True)
    ]
    rates = [_rate(worker, server) for server in range(servers)]
    rate_of = {id(weight): rates[server] for weight, server in zip(model.weights, placement, strict=True)}
    rule, settings = _RULES[workload.optimizer_settings["name"]], workload.optimizer_settings
    shared = {id(variable) for variable in by_id.values()}
    moves = [(variable, variable.assign(value, read_value=False)) for variable, value in zip(fixed, moved, strict=True)]
    return Graph(
        x=x,
        y=y,
        learning_rate=learning_rate,
        set_learning_rate=tf.group(*[rate.assign(learning_rate, read_value=False) for rate in rates]),
        loss=loss,
        gradients=gradients,
        updates=[
            _on_server(variable, rule(variable, rate_of[id(weight)], settings))
            for variable, weight in zip(trainable, model.trainable_variables, strict=True)
        ],
        moving=[operation for variable, operation in moves if id(variable) in shared],
        local=[operation for variable, operation in moves if id(variable) not in shared],
        variables=[by_id[id(weight)] for weight in model.weights],
        trainable=trainable,
        initial=source.weights,
    )


def _balance(weights: list[Any], servers: int) -> list[int]:
    """The ps task of each weight: largest first, each to the task with the fewest bytes so far."""
    sizes = [int(np.prod(weight.shape)) for weight in weights]
    loads = [0] * servers
    placement = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        server = loads.index(min(loads))
        loads[server] += sizes[index]
        placement[index] = server
    return placement


def _variable(shape: Any, dtype: str, name: str, server: int, trainable: bool) -> tf.Variable:
    with tf.device(f"/job:ps/task:{server}/cpu:0"):
        return tf.compat.v1.get_variable(
            name.replace("/", "_"),
            shape,
            tf.as_dtype(dtype),
            initializer=None,
            use_resource=True,
            trainable=trainable,
        )


def _rate(worker: int, server: int) -> tf.Variable:
    """This worker's learning rate, kept on a ps task."""
    with tf.device(f"/job:ps/task:{server}/cpu:0"):
        return tf.compat.v1.get_variable(
            f"learning_rate_{worker}_{server}",
            (),
            tf.float32,
            tf.compat.v1.zeros_initializer(),
            use_resource=True,
            trainable=False,
            collections=[tf.compat.v1.GraphKeys.LOCAL_VARIABLES],
        )


def _local(state: Any, source: Source) -> tf.Variable:
    """State that is no weight, such as a dropout layer's seed: each worker keeps its own."""
    return tf.compat.v1.get_variable(
        state.path.replace("/", "_"),
        initializer=tf.constant(source.state[id(state)]),
        use_resource=True,
        trainable=False,
        collections=[tf.compat.v1.GraphKeys.LOCAL_VARIABLES],
    )


def _slot(variable: tf.Variable, name: str, value: float = 0.0, shape: Any = None) -> tf.Variable:
    with tf.device(variable.device):
        return tf.compat.v1.get_variable(
            f"{variable.op.name}_{name}",
            variable.shape if shape is None else shape,
            variable.dtype,
            initializer=tf.compat.v1.constant_initializer(value),
            use_resource=True,
            trainable=False,
        )


def _on_server(variable: tf.Variable, update: Update) -> Update:
    """What an update reads beside the gradient it reads where the variable is, so that only the gradient travels."""

    def apply(gradient: tf.Tensor) -> tf.Operation:
        with tf.device(variable.device):
            return update(gradient)

    return apply


def _sgd(variable: tf.Variable, rate: tf.Variable, settings: Mapping[str, Any]) -> Update:
    if not settings["momentum"]:
        return lambda gradient: tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=rate.read_value(), delta=gradient
        )
    velocity = _slot(variable, "velocity")
    return lambda gradient: tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle, accum=velocity.handle, lr=rate.read_value(), grad=gradient, momentum=settings["momentum"]
    )


def _adam(variable: tf.Variable, rate: tf.Variable, settings: Mapping[str, Any]) -> Update:
    beta1, beta2 = settings["beta_1"], settings["beta_2"]
    mean, square = _slot(variable, "mean"), _slot(variable, "square")
    power1, power2 = _slot(variable, "power1", beta1, ()), _slot(variable, "power2", beta2, ())

    def update(gradient: tf.Tensor) -> tf.Operation:
        apply = tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=power1.read_value(),
            beta2_power=power2.read_value(),
            lr=rate.read_value(),
            beta1=beta1,
            beta2=beta2,
            epsilon=settings["epsilon"],
            grad=gradient,
        )
        with tf.control_dependencies([apply]):
            return tf.group(
                power1.assign(power1 * beta1, read_value=False),
                power2.assign(power2 * beta2, read_value=False),
            )

    return update


_RULES: dict[str, Rule] = {"sgd": _sgd, "adam": _adam}
