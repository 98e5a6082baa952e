"""The update of any Keras optimizer in a graph, where no kernel of TensorFlow computes it.

A Keras optimizer of its own for each weight is asked for the new values of the weight and of its state, from their
values on the ps task. Both stay on that task, and so does the computation.
Source: ``keras.StatelessScope``, by which Keras's JAX backend runs the same optimizers. Keras refuses
``stateless_apply`` on TensorFlow, as it can't be distributed by tf.distribute, which is not used here.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from .replica import release

v1 = tf.compat.v1


class KerasRule:
    """The update rule of one weight. Make it outside of any graph.

    Args:
        optimizer: a new one, for this weight alone.
        weight: the Keras variable.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, weight: keras.Variable):
        kind = type(optimizer)
        optimizer.__class__ = type(kind.__name__, (_Pure, kind), {})
        optimizer.build([weight])
        self._optimizer, self._weight = optimizer, weight
        self._state = [v for v in optimizer.variables if v is not optimizer.learning_rate]
        self._initial = [_only_value(v) for v in self._state]
        for variable in self._state:
            release(variable)

    def update(self, variable: tf.Variable, rate: Any, lock: bool) -> Any:
        """See `stratbench.strategies._shared.update_rules.Rule`. The state is made in the current graph."""
        slots = [
            v1.get_variable(
                f"{variable.op.name}_{number}_{state.name}",
                state.shape,
                state.dtype,
                initializer=v1.constant_initializer(value),
                use_resource=True,
                trainable=False,
            )
            for number, (state, value) in enumerate(zip(self._state, self._initial, strict=True))
        ]

        def apply(gradient: tf.Tensor) -> tf.Operation:
            optimizer = self._optimizer
            known = [(self._weight, variable.read_value()), (optimizer.learning_rate, rate.read_value())]
            known += [(state, slot.read_value()) for state, slot in zip(self._state, slots, strict=True)]
            optimizer.only = self._weight
            with keras.StatelessScope(known) as scope:
                optimizer.apply([gradient], [self._weight])
            pairs = [(self._weight, variable), *zip(self._state, slots, strict=True)]
            new = [(there, scope.get_current_value(here)) for here, there in pairs]
            return tf.group(*[there.assign(value, read_value=False) for there, value in new])

        if not lock:
            return apply
        section = tf.CriticalSection(shared_name=f"{variable.op.name}_lock")
        # All sections read the learning rate.
        return lambda gradient: section.execute(lambda: apply(gradient), exclusive_resource_access=False)


class _Pure:
    """Methods of a Keras optimizer that would take TensorFlow's variables: here they take Keras's, in a scope.

    Those with an underscore are not public. `tests/test_ps_rules.py` compares every optimizer with Keras's own steps.
    """

    only: keras.Variable

    def assign(self, variable: keras.Variable, value: Any) -> None:
        variable.assign(value)

    def assign_add(self, variable: keras.Variable, value: Any) -> None:
        variable.assign(variable + value)

    def assign_sub(self, variable: keras.Variable, value: Any) -> None:
        variable.assign(variable - value)

    def _var_key(self, variable: keras.Variable) -> int:
        return id(variable)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        if self.weight_decay is None:  # type: ignore[attr-defined]
            return
        for variable in variables:
            rate = keras.ops.cast(self.learning_rate * self.weight_decay, variable.dtype)  # type: ignore[attr-defined]
            variable.assign(variable - variable * rate)

    def _distributed_tf_update_step(self, distribution: Any, pairs: list[tuple[Any, Any]], rate: Any) -> None:
        for gradient, _ in pairs:
            self.update_step(gradient, self.only, rate)  # type: ignore[attr-defined]


def _only_value(variable: keras.Variable) -> float:
    """Of a state whose elements are all alike at the start, as those of all of Keras's optimizers are."""
    values = variable.numpy()
    if values.min() != values.max():
        raise NotImplementedError(f"state {variable.path} does not start from one value")
    return values.flat[0].item()
