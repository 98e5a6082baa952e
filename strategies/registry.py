"""The strategies of this folder, found by being there: by name, with a user's options, and as ``list`` shows them."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .base import Strategy

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_MOST = 2**31 - 1
"""Of whole numbers: they count, and TensorFlow's counters have 32 bits."""


@cache
def available() -> dict[str, type[Strategy]]:
    """Every strategy in this folder and in the families' folders, by name. Finding them imports no TensorFlow."""
    found: dict[str, type[Strategy]] = {}
    for module in pkgutil.walk_packages([str(Path(__file__).parent)], prefix=f"{__package__}."):
        *_, name = parts = module.name.split(".")
        if (
            module.ispkg
            or name in ("base", "trainer", "transport", "registry")
            or any(part.startswith("_") for part in parts)
        ):
            continue
        for member in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(member) and issubclass(member, Strategy) and not inspect.isabstract(member):
                found[member.name] = member
    return dict(sorted(found.items()))


def find(name: str) -> type[Strategy]:
    """The strategy of that name. Raises UsageError that names the nearest one."""
    strategies = available()
    if name in strategies:
        return strategies[name]
    near = difflib.get_close_matches(name, strategies, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"strategy must be one of {', '.join(strategies)}. Received: '{name}'.{hint}")


def create(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy with the user's options, which may be text. Raises UsageError for an unknown or unfit one."""
    from pydantic import ValidationError

    cls = find(name)
    known = [field.name for field in dataclasses.fields(cls)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            has = f"has the options {', '.join(known)}" if known else "has no options"
            raise UsageError(f"strategy {name} {has}. Received: '{key}'.{hint}")
    try:
        strategy = _adapter(cls).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        # What follows the name is pydantic's own, such as the member of a union.
        where = first["loc"][0]
        raise UsageError(
            f"option {where} of strategy {name}: {first['msg'].lower()}. Received: {first['input']!r}."
        ) from None
    for key in options:
        value = getattr(strategy, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"option {key} of strategy {name} must be finite. Received: {options[key]!r}.")
        if isinstance(value, int) and abs(value) > _MOST:
            raise UsageError(f"option {key} of strategy {name} must be at most {_MOST}. Received: {options[key]!r}.")
    return strategy


@cache
def _adapter(cls: type[Strategy]) -> TypeAdapter[Strategy]:
    """What checks a class's options: made once, as making it takes milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def describe(cls: type[Strategy]) -> dict[str, Any]:
    """What ``stratbench list strategies NAME`` shows."""
    hints = typing.get_type_hints(cls)
    options = [
        {
            "name": field.name,
            "type": _type_text(hints[field.name]),
            "default": field.default,
            "help": field.metadata.get("help", ""),
        }
        for field in dataclasses.fields(cls)
    ]
    return {
        "name": cls.name,
        "summary": cls.summary,
        "family": cls.family,
        "good_for": cls.good_for,
        "needs": cls.needs,
        **dataclasses.asdict(cls.traits),
        "max_replicas": cls.max_replicas,
        "options": options,
        "documentation": inspect.cleandoc(sys.modules[cls.__module__].__doc__ or ""),
    }


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "|".join(map(_type_text, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))
