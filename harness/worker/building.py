"""From a model's reference to the Keras model, built, or refused with the reason in one line.

A model's function takes no arguments or (shape, classes), and returns a Keras model with one input and one output of
shape (None, classes).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..plan.models import BUILDERS, check_fit, own
from .compiled import recording

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info


def build(reference: str, info: Info) -> keras.Model:
    """The model, built for the examples that ``info`` describes.

    Raises:
        UsageError: it does not import, does not fit the examples, or is of a kind that is not supported.
    """
    import keras

    shape, classes = info.shape, info.classes
    if (known := own(reference)) is not None:
        name, options = known
        check_fit(name, shape)
        return BUILDERS[name](shape, classes, **options)
    with recording():
        model = _make(reference, shape, classes)
    if not isinstance(model, keras.Model):
        raise UsageError(f"model {reference} must return a Keras model. Received: {type(model).__name__}.")
    _check_call(reference, model, info)
    return model


def _make(reference: str, shape: tuple[int, ...], classes: int) -> Any:
    """Whatever the user's function returns."""
    function = _import(reference)
    required = len(_required(function))
    if required not in (0, 2):
        raise UsageError(
            f"model {reference} must take no arguments or (shape, classes). Received: a function of {required}."
        )
    try:
        return function(shape, classes) if required else function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {reference} failed when called: {one_line(error)}") from error


def _import(reference: str) -> Callable[..., Any]:
    module_name, _, name = reference.partition(":")
    try:
        module = _import_from_here(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {reference}: {module_name} does not import: {one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"model {reference}: {module_name} has no function '{name}'.{hint}")
    return function


def _import_from_here(name: str) -> Any:
    """The user's module, from the current folder first. All else that is imported later comes from there last."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def _check_call(reference: str, model: keras.Model, info: Info) -> None:
    """Call it on two examples. Raises UsageError for several inputs or outputs, masks, and other shapes."""
    import numpy as np

    for kind in ("inputs", "outputs"):
        several = getattr(model, kind, None) or []
        if len(several) > 1:
            names = ", ".join(str(each.name) for each in several)
            raise UsageError(
                f"model {reference} must have one input and one output: more are not supported yet. "
                f"Received: {len(several)} {kind} ({names})."
            )
    try:
        output = model(np.zeros((2, *info.shape), info.dtype))
    except Exception as error:
        raise UsageError(
            f"model {reference} must accept examples of shape {info.shape} and type {info.dtype}: {one_line(error)}"
        ) from error
    if isinstance(output, list | tuple | dict):
        raise UsageError(
            f"model {reference} must have one input and one output: more are not supported yet. "
            f"Received: {len(output)} outputs."
        )
    if getattr(output, "_keras_mask", None) is not None:
        raise UsageError(
            f"model {reference} must not give its loss a mask: masked outputs are not supported yet. "
            "Received: an output with a mask."
        )
    received = tuple(getattr(output, "shape", ()))
    if received != (2, info.classes):
        text = f"(None, {', '.join(map(str, received[1:]))})" if received else type(output).__name__
        why = (
            " stratbench trains classifiers; regression and a single output for two classes are not supported yet."
            if received in ((2, 1), (2,))
            else ""
        )
        raise UsageError(f"model {reference} must have the output shape (None, {info.classes}). Received: {text}.{why}")


def one_line(error: BaseException) -> str:
    """The type, and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
