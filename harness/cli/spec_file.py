"""The TOML file that may set the flags of ``run`` and ``compare``."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import click

from ...errors import UsageError
from .values import Counts, Repeats, check_text, kind

MOST_BYTES = 2**20
MOST_INTEGER = 2**63
"""The limit of TOML; Python itself would read integers of any length."""


def load(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's values the flags' defaults: flags on the command line override them. Raises UsageError."""
    if path is not None:
        if ctx.default_map:
            raise UsageError(f"give one file with flags, PLAN or --spec. Received: {path} as well.")
        ctx.default_map = _flags(path, _parse(path), ctx.command)
    return path


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(path).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the spec file can't be read: {error.strerror}. Received: {path}.") from None
    except ValueError as error:
        raise UsageError(f"the spec file must be TOML: {error}. Received: {path}.") from None
    except RecursionError:
        raise UsageError(f"the spec file must not be nested so deeply. Received: {path}.") from None


def _content(path: Path) -> bytes:
    """The content of a regular file: a pipe may block, a device may have no end. Raises UsageError or OSError."""
    # O_NONBLOCK: the path may have become a pipe in between.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"the spec file must be a regular file. Received: {path}, {kind(mode)}.")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UsageError(f"the spec file must have at most {MOST_BYTES} bytes. Received: {path}, which has more.")
    return content


def _flags(path: Path, content: dict[str, Any], command: click.Command) -> dict[str, Any]:
    """Name of the flag's parameter → value."""
    flags = {str(flag.name): flag for flag in command.params if flag.name not in ("spec", "plan", "as_json")}
    values = {}
    for written, value in content.items():
        key = written.replace("-", "_")
        if key not in flags:
            near = difflib.get_close_matches(key, flags, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" It takes {', '.join(sorted(flags))}."
            raise UsageError(f"{path}: a spec has these flags' names as keys. Received: '{written}'.{hint}")
        if key in values:
            raise UsageError(f"{path}: {key} must be given once. Received: it and '{written}'.")
        values[key] = _value(path, flags[key], value)
    return values


def _value(path: Path, flag: click.Parameter, value: Any) -> Any:
    """The checked value for click. Without the check, click would silently turn 32.5 into 32 and true into 1."""
    if flag.name == "option" and isinstance(value, dict):
        return [f"{key}={_option(path, key, each)}" for key, each in value.items()]
    several = isinstance(value, list) and (flag.multiple or isinstance(flag.type, Counts))
    parts = value if several else [value]
    for part in parts:
        _check(path, flag, part)
    if isinstance(flag.type, Counts):
        return [parts]
    return parts if flag.multiple else value


def _check(path: Path, flag: click.Parameter, part: Any) -> None:
    if isinstance(flag.type, click.types.IntParamType | Counts):
        fits, what = _is_number(part, int), "a whole number"
    elif isinstance(flag.type, click.types.FloatParamType):
        fits, what = _is_number(part, int | float), "a number"
    elif isinstance(flag.type, Repeats):
        fits, what = isinstance(part, str) or _is_number(part, int), 'a whole number, "auto" or a percentage in quotes'
    else:
        fits, what = isinstance(part, str), "text in quotes"
    if not fits:
        raise UsageError(f"{path}: {flag.name} must be {what}. Received: {_shown(part)}.")
    if isinstance(part, str):
        check_text(part)


def _option(path: Path, key: str, value: Any) -> str:
    """The text of a strategy's option after ``-o KEY=``."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) and not _is_number(value, int | float):
        raise UsageError(f"{path}: option {key} must be text, a number, true or false. Received: {_shown(value)}.")
    for text in (key, str(value)):
        check_text(text)
    return str(value)


def _is_number(value: Any, kinds: Any) -> bool:
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return isinstance(value, float) or -MOST_INTEGER <= value < MOST_INTEGER


def _shown(value: Any) -> str:
    """The value as text; Python doesn't convert integers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "an integer of thousands of digits"
