"""Which optimizers a model's own ``train_step`` uses, and for which weights.

It is traced once, with optimizers that note what they are given and change nothing. That also makes the variables that
would otherwise be made in the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from . import compiled
from .own_optimizer import described
from .wording import one_line

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Structure

MAIN = "optimizer"
"""Attribute of a model: the optimizer of ``compile``."""

Used = Mapping[str, "tuple[keras.optimizers.Optimizer, list[keras.Variable]]"]
"""Attribute of a model → its optimizer, and the weights that it is given gradients for, in the order of use."""


def used(reference: str, model: keras.Model, data: Structure, callable_: bool) -> Used:
    """Trace ``train_step``.

    Args:
        data: a few made-up examples, as ``fit`` gives them.
        callable_: whether the model itself can be called.

    Raises:
        UsageError: it fails, or it applies gradients without an optimizer that the model holds.
    """
    import keras
    import tensorflow as tf

    held = _optimizers(model)
    found: dict[int, tuple[Any, dict[int, keras.Variable]]] = {}

    def note(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        known = found.setdefault(id(optimizer), (optimizer, {}))[1]
        given = model.trainable_variables if trainable_variables is None else trainable_variables
        known.update({id(variable): variable for variable in given})

    unbuilt = [layer.name for layer in compiled.layers(model) if not layer.built]
    tensors = keras.tree.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), data)
    try:
        if callable_:
            # As in fit: replicas of tf.distribute can't create the variables of metrics within their step.
            model._maybe_symbolic_build(data_batch=data)
        with _applied_by(note):
            tf.function(_in_replica(model.train_step), autograph=False).get_concrete_function(tensors)
    except Exception as error:
        if tf.distribute.has_strategy() and unbuilt:
            raise UsageError(
                f"model {reference} must be built by its function, as replicas of tf.distribute can't create weights "
                f"in a step: call its layers there once. Received: {', '.join(unbuilt)} without weights."
            ) from error
        raise UsageError(f"model {reference} can't be trained: {one_line(error)}") from error
    if not found or found.keys() - held.keys():
        uses = ", ".join(type(each).__name__ for key, (each, _) in found.items() if key not in held)
        raise UsageError(
            f"the train_step of model {reference} must apply its gradients by optimizers that are attributes of the "
            f"model. Received: {f'others, {uses}' if uses else 'no call of apply or apply_gradients'}."
        )
    return {" ".join(held[key]): (optimizer, list(variables.values())) for key, (optimizer, variables) in found.items()}


def _in_replica(step: Callable[[Structure], Any]) -> Callable[[Structure], Any]:
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return step
    return lambda data: tf.distribute.get_strategy().run(step, (data,))


def words(used: Used) -> str:
    """``d_optimizer adam:beta_1=0.5 (learning rate 0.0002); g_optimizer …``: what trains the model."""
    return "; ".join(f"{name} {described(optimizer)}" for name, (optimizer, _) in used.items())


@contextmanager
def _applied_by(function: Callable[..., None]) -> Iterator[None]:
    """All optimizers apply gradients by this function meanwhile."""
    import keras

    kinds = (*keras.optimizers.Optimizer.__mro__, keras.optimizers.LossScaleOptimizer)
    own: dict[Any, Any] = {kind: vars(kind)["apply"] for kind in kinds if "apply" in vars(kind)}
    for kind in own:
        kind.apply = function
    try:
        yield
    finally:
        for kind, method in own.items():
            kind.apply = method


def _optimizers(model: keras.Model) -> dict[int, list[str]]:
    """Those that the model holds, by their identity: the attributes, as ``optimizers/0`` in a list or dictionary."""
    import keras

    found: dict[int, list[str]] = {}
    for attribute, value in vars(model).items():
        # TensorFlow and stratbench keep what they track in attributes of such names.
        private = attribute.startswith(("_self_", "_stratbench_"))
        for name, each in () if private else _members(attribute, value):
            if isinstance(each, keras.optimizers.Optimizer):
                found.setdefault(id(each), []).append(name)
    return found


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}/{key}", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}/{place}", each) for place, each in enumerate(value))
    else:
        yield name, value
