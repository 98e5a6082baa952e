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

    found: dict[str, tuple[Any, dict[int, keras.Variable]]] = {}
    held = dict(_optimizers(model))

    def note(name: str) -> Callable[..., None]:
        def apply(grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
            known = found.setdefault(name, (held[name], {}))[1]
            given = model.trainable_variables if trainable_variables is None else trainable_variables
            known.update({id(variable): variable for variable in given})

        return apply

    unbuilt = [layer.name for layer in compiled.layers(model) if not layer.built]
    tensors = keras.tree.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), data)
    try:
        if callable_:
            # As in fit: replicas of tf.distribute can't create the variables of metrics within their step.
            model._maybe_symbolic_build(data_batch=data)
        with _replaced(held, note):
            tf.function(_in_replica(model.train_step), autograph=False).get_concrete_function(tensors)
    except Exception as error:
        if tf.distribute.has_strategy() and unbuilt:
            raise UsageError(
                f"model {reference} must be built by its function, as replicas of tf.distribute can't create weights "
                f"in a step: call its layers there once. Received: {', '.join(unbuilt)} without weights."
            ) from error
        raise UsageError(f"model {reference} can't be trained: {one_line(error)}") from error
    if not found:
        raise UsageError(
            f"the train_step of model {reference} must apply gradients by an optimizer that the model holds. "
            f"Received: {', '.join(held) or 'no optimizer'}, and no call of apply or apply_gradients."
        )
    return {name: (optimizer, list(variables.values())) for name, (optimizer, variables) in found.items()}


def _in_replica(step: Callable[[Structure], Any]) -> Callable[[Structure], Any]:
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return step
    return lambda data: tf.distribute.get_strategy().run(step, (data,))


def words(used: Used) -> str:
    """``d_optimizer adam:beta_1=0.5 (learning rate 0.0002); g_optimizer …``: what trains the model."""
    return "; ".join(f"{name} {described(optimizer)}" for name, (optimizer, _) in used.items())


@contextmanager
def _replaced(held: Mapping[str, Any], by: Callable[[str], Callable[..., None]]) -> Iterator[None]:
    """Each optimizer's ``apply`` is meanwhile another function."""
    for name, optimizer in held.items():
        object.__setattr__(optimizer, "apply", by(name))
    try:
        yield
    finally:
        for optimizer in held.values():
            object.__delattr__(optimizer, "apply")


def _optimizers(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Those that the model holds, each once, by the attribute; ``optimizers/0`` for one in a list or dictionary."""
    import keras

    seen: set[int] = set()
    # Containers last, as TensorFlow and stratbench keep what they track in some.
    for attribute, value in sorted(vars(model).items(), key=lambda pair: isinstance(pair[1], Mapping | list | tuple)):
        for name, each in _members(attribute, value):
            if isinstance(each, keras.optimizers.Optimizer) and id(each) not in seen:
                seen.add(id(each))
                yield name, each


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}/{key}", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}/{place}", each) for place, each in enumerate(value))
    else:
        yield name, value
