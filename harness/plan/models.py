"""From a model's reference to the model: one that comes with stratbench, as ``mlp-wide:units=5950``, Keras's own, as
``keras.applications:MobileNetV2``, or the user's ``package.module:function``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any, get_args, get_type_hints

from ...errors import UsageError
from .. import models as files
from ..models.base import FUNCTION, Model
from .pairs import parse_options

APPLICATIONS = "keras.applications"
"""Module of Keras's own models for images."""
OTHERS = {
    f"{APPLICATIONS}:NAME": "Keras's own, such as MobileNetV2, with random weights: images as large as the data set's",
    FUNCTION: "your own: returns a Keras model; a compiled loss is optional",
}
"""References of models that do not come with stratbench."""
_MOST_DIGITS = 9


@cache
def available() -> dict[str, type[Model]]:
    """Name → class, from every module of the folder ``models`` whose name doesn't start with ``_``."""
    found: dict[str, type[Model]] = {}
    for module in pkgutil.iter_modules(files.__path__):
        if module.name.startswith("_"):
            continue
        for member in vars(importlib.import_module(f"{files.__name__}.{module.name}")).values():
            if inspect.isclass(member) and issubclass(member, Model) and not inspect.isabstract(member):
                found[member.name] = member
    return dict(sorted(found.items()))


def describe(name: str) -> dict[str, Any]:
    """What ``stratbench list models NAME`` shows. Raises UsageError for a wrong reference."""
    check_reference(name)
    if (model := own(name)) is None:
        kind = f"{APPLICATIONS}:NAME" if is_application(name) else FUNCTION
        return {"name": name, "summary": OTHERS[kind], "options": []}
    options = [
        {"name": key, "type": "|".join(words) or "int", "default": field.default, "help": field.metadata["help"]}
        for key, (field, words) in _options(type(model)).items()
    ]
    return {"name": model.name, "summary": model.summary, "options": options}


def check_reference(reference: str) -> None:
    """Raise UsageError for a wrong reference, as far as this is known without loading TensorFlow."""
    if own(reference) is not None:
        return
    module, colon, function = reference.partition(":")
    if colon and module and function:
        return
    near = difflib.get_close_matches(reference, available(), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(
        f"model must be one of {', '.join(available())}, or {', or '.join(OTHERS)}. Received: '{reference}'.{hint}"
    )


def is_application(reference: str) -> bool:
    """Whether it names one of Keras's own."""
    return reference.partition(":")[0] == APPLICATIONS


def own(reference: str) -> Model | None:
    """The model of stratbench; None for any other one. Raises UsageError for wrong options."""
    name, colon, text = reference.partition(":")
    # Without "=" it may be a function in the user's module with that name.
    if name not in available() or (colon and "=" not in text):
        return None
    cls = available()[name]
    known = _options(cls)
    options = parse_options(text.split(",") if colon else [])
    for key in options:
        if key not in known:
            has = f"has the options {', '.join(known)}" if known else "has no options"
            raise UsageError(f"model {name} {has}. Received: '{key}'.")
    return cls(**{key: _value(name, key, value, known[key][1]) for key, value in options.items()})


def _value(model: str, key: str, value: str, words: tuple[str, ...]) -> int | str:
    """Of an option. Raises UsageError."""
    if words:
        if value not in words:
            raise UsageError(f"option {key} of model {model} must be {' or '.join(words)}. Received: '{value}'.")
        return value
    if value.isdecimal() and len(value) > _MOST_DIGITS:
        raise UsageError(f"option {key} of model {model} must have at most {_MOST_DIGITS} digits, not {len(value)}.")
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"option {key} of model {model} must be an integer, at least 1. Received: '{value}'.")
    return int(value)


def _options(cls: type[Model]) -> dict[str, tuple[dataclasses.Field[Any], tuple[str, ...]]]:
    """Name → field, and the words that it may be; none for a number."""
    types = get_type_hints(cls)
    return {field.name: (field, get_args(types[field.name])) for field in dataclasses.fields(cls)}
