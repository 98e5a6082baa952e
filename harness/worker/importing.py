"""A function of the user's, by its reference ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...results.raw.files import shown
from .wording import one_line


def function(reference: str, what: str) -> Callable[..., Any]:
    """Import it. ``what`` it is for begins the message, as in ``model``. Raises UsageError in one line."""
    found = attribute(reference, what)
    if not callable(found):
        module_name, _, name = reference.partition(":")
        raise UsageError(f"{what} {reference}: {module_name} has no function '{name}'.")
    return found


def attribute(reference: str, what: str) -> Any:
    """As `function`, of any kind."""
    module_name, _, name = reference.partition(":")
    try:
        module = _import_from_here(module_name)
    except (Exception, SystemExit) as error:
        if module_name.endswith(".py"):
            raise UsageError(f"{what} {reference}: {_by_module(Path(module_name), name)}") from error
        raise UsageError(f"{what} {reference}: {module_name} does not import: {one_line(error)}") from error
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"{what} {reference}: {module_name}{_elsewhere(module)} has no function '{name}'.{hint}")
    return found


def _by_module(file: Path, name: str) -> str:
    where = "" if file.parent == Path() else f", with {shown(file.parent)} as the current folder or in PYTHONPATH"
    return f"a function is named by its module, not by its file. Use {shown(file.stem)}:{name}{where}."


def _elsewhere(module: Any) -> str:
    """Where it is, if that is not below the current folder: an installed package may have the same name."""
    file = getattr(module, "__file__", None)
    return f", from {shown(Path(file))}," if file and not Path(file).is_relative_to(Path.cwd()) else ""


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
