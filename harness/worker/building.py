"""From a model's reference to the Keras model, or refused with the reason in one line.

A model's function takes no arguments or (shape, classes), and returns a Keras model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...datasets.base import Array, described
from ...errors import UsageError
from ..plan.models import is_application, own
from . import importing
from .compiled import recording
from .wording import one_line

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info


def build(reference: str, info: Info) -> keras.Model:
    """The model, not built yet if it is a user's whose layers don't know their inputs' shapes.

    Raises:
        UsageError: it does not import, is no model, or says something that is not supported.
    """
    if (known := own(reference)) is not None:
        known.check(info)
        with recording():
            return known.build(info)
    function = _function(reference)
    if is_application(reference):
        given = {"input_shape": info.shape, "classes": _width(reference, info)}
        return _call(reference, lambda: function(weights=None, **given))
    return _call(reference, lambda: function(*((info.shape, _width(reference, info)) if _required(function) else ())))


def alone(reference: str, precision: str) -> keras.Model | None:
    """A model that no data set gives its shapes; None for a function that takes them.

    Raises:
        UsageError: as `build`.
    """
    function = _function(reference)
    if _required(function):
        return None
    with policy(precision, reference):
        return _call(reference, lambda: function(**({"weights": None} if is_application(reference) else {})))


@contextmanager
def policy(precision: str, reference: str) -> Iterator[None]:
    """Layers that are made meanwhile have this dtype policy, unless they or the user's module set another.

    Args:
        precision: empty to leave it as it is.
    """
    import keras

    before = keras.config.dtype_policy()
    try:
        if precision:
            keras.config.set_dtype_policy(precision)
        yield
        if precision and keras.config.dtype_policy().name != precision:
            raise UsageError(
                f"--precision {precision} has no effect: model {reference} sets the dtype policy by itself. "
                f"Received: {keras.config.dtype_policy().name}."
            )
    finally:
        if precision:
            keras.config.set_dtype_policy(before)


def _function(reference: str) -> Callable[..., Any]:
    """The user's function, or Keras's."""
    function = importing.function(reference, "model")
    required = len(_required(function))
    if required not in (0, 2):
        raise UsageError(
            f"model {reference} must take no arguments or (shape, classes). Received: a function of {required}."
        )
    return function


def _call(reference: str, make: Callable[[], Any]) -> keras.Model:
    """What the function returns."""
    import keras

    try:
        with recording():
            model = make()
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {reference} failed when called: {one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise UsageError(f"model {reference} must return a Keras model. Received: {type(model).__name__}.")
    return model


def _width(reference: str, info: Info) -> int:
    """The argument ``classes``: without classes, how many values a target has."""
    if info.classes is not None:
        return info.classes
    if isinstance(info.y, Array) and len(info.y.shape) < 2:
        return info.y.shape[0] if info.y.shape else 1
    raise UsageError(
        f"model {reference} must take no arguments, as the data has no classes. Received: a function of 2, and "
        f"targets of {described(info.y)}."
    )


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
