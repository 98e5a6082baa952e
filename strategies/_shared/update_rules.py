"""Update rules in a graph: the in-place kernels that compute what some of Keras's optimizers compute.

https://www.tensorflow.org/api_docs/python/tf/raw_ops. The others compute by `keras_rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from ..base import CLIPPING
from .keras_rule import KerasRule
from .rows import updates_by_rows

Gradient = Any
"""A ``tf.Tensor``, or ``tf.IndexedSlices`` that have each row once."""

Update = Callable[[Gradient], tf.Operation]
"""gradient → the operation that applies it in place, on the variable's own task."""


class Rate(Protocol):
    """The learning rate: a variable, or what reads it in another way."""

    def read_value(self) -> tf.Tensor:
        """Scalar, float32."""


Rule = Callable[[tf.Variable, Rate, Mapping[str, Any], bool], Update]
"""(variable, learning rate, optimizer settings, whether the update locks the variable) → its update."""


def has_kernel(settings: Mapping[str, Any]) -> bool:
    """Whether an optimizer has a rule here, clipping apart."""
    name = settings["name"]
    return name in _RULES and set(settings) - set(CLIPPING) == {"name", "learning_rate", *_KNOWN[name]}


def update_of(
    variable: tf.Variable,
    rate: Rate,
    settings: Mapping[str, Any],
    lock: bool,
    otherwise: KerasRule | None = None,
) -> Update:
    """The update of one variable by the optimizer of ``settings``. Its state is on the variable's task.

    All that it reads is on that task, except the gradient: only the gradient is sent.

    Args:
        otherwise: the rule where there is no kernel.
    """
    by_rows = otherwise is None and updates_by_rows(settings)
    with tf.device(variable.device):
        update = otherwise.update(variable, rate, lock) if otherwise else _kernel(variable, rate, settings, lock)

    def apply(gradient: Gradient) -> tf.Operation:
        come = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        # A server's update has begun when it waits for gradients: the learning rate must be read after they have come.
        with tf.device(variable.device), tf.control_dependencies([come]):
            return update(gradient if by_rows or come is gradient else _dense(gradient))

    return apply


def _dense(gradient: tf.IndexedSlices) -> tf.Tensor:
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])


def _kernel(variable: tf.Variable, rate: Rate, settings: Mapping[str, Any], lock: bool) -> Update:
    return _RULES[settings["name"]](variable, rate, settings, lock)


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


def _sgd(variable: tf.Variable, rate: Rate, settings: Mapping[str, Any], lock: bool) -> Update:
    if not settings["momentum"]:

        def descend(gradient: Gradient) -> tf.Operation:
            if isinstance(gradient, tf.IndexedSlices):
                change = rate.read_value() * gradient.values
                return tf.raw_ops.ResourceScatterSub(resource=variable.handle, indices=gradient.indices, updates=change)
            return tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=rate.read_value(), delta=gradient, use_locking=lock
            )

        return descend
    velocity = _slot(variable, "velocity")
    return lambda gradient: tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=velocity.handle,
        lr=rate.read_value(),
        grad=gradient,
        momentum=settings["momentum"],
        use_locking=lock,
    )


def _adagrad(variable: tf.Variable, rate: Rate, settings: Mapping[str, Any], lock: bool) -> Update:
    squares = _slot(variable, "squares", settings["initial_accumulator_value"])

    def update(gradient: Gradient) -> tf.Operation:
        known = {"var": variable.handle, "accum": squares.handle, "epsilon": settings["epsilon"], "use_locking": lock}
        if isinstance(gradient, tf.IndexedSlices):
            return tf.raw_ops.ResourceSparseApplyAdagradV2(
                lr=rate.read_value(), grad=gradient.values, indices=gradient.indices, **known
            )
        return tf.raw_ops.ResourceApplyAdagradV2(lr=rate.read_value(), grad=gradient, **known)

    return update


def _adam(variable: tf.Variable, rate: Rate, settings: Mapping[str, Any], lock: bool) -> Update:
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
            use_locking=lock,
        )
        with tf.control_dependencies([apply]):
            return tf.group(
                power1.assign(power1 * beta1, read_value=False),
                power2.assign(power2 * beta2, read_value=False),
            )

    return update


_RULES: dict[str, Rule] = {"SGD": _sgd, "Adam": _adam, "Adagrad": _adagrad}
_KNOWN = {
    "SGD": ("momentum",),
    "Adam": ("beta_1", "beta_2", "epsilon"),
    "Adagrad": ("initial_accumulator_value", "epsilon"),
}
"""Settings that the kernels compute with."""
