"""``stratbench.compare``: what the command of this name does, for scripts and notebooks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..results.tables.reading import Tables

Reference = str | Callable[..., Any]


def compare(
    model: Reference,
    dataset: Reference,
    strategies: str | Sequence[str],
    replicas: int | Sequence[int],
    flags: dict[str, Any],
) -> Tables:
    """See ``stratbench.compare``. The arguments become those of the command line, so both run the same code."""
    from ..results import load
    from .cli.commands import cli
    from .cli.comparing import run_grid
    from .cli.session import INTERRUPTED

    given = {"model": _reference("model", model), "dataset": _reference("dataset", dataset)} | flags
    given |= {"strategy": strategies, "replicas": replicas}
    command = cli.commands["compare"]
    known = {parameter.name for parameter in command.params if isinstance(parameter, click.Option)}
    if unknown := sorted(set(flags) - known | set(flags) & {"strategy"}):
        raise UsageError(f"compare takes the flags of the command line, such as global_batch. Received: {unknown[0]}.")
    arguments = [text for name, value in given.items() for text in _arguments(name, value)]
    try:
        with command.make_context("compare", arguments) as context:
            grid, code = run_grid(**context.params)
            output = context.params["output"]
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None
    if code in INTERRUPTED.values():
        raise KeyboardInterrupt
    ids = {spec.run_id for spec in grid.specs}
    tables = load(output)
    frames = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    return type(tables)(
        **{name: frame[frame["run_id"].isin(ids)].reset_index(drop=True) for name, frame in frames.items()}
    )


def _reference(name: str, value: Reference) -> str:
    if isinstance(value, str):
        return value
    module, function = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or module == "__main__" or not function.isidentifier():
        raise UsageError(
            f"{name} must be in a file that other processes can import, as in '{name}=\"my_file:{name}\"'. "
            f"Received: {function or value} of {'this notebook or script' if module == '__main__' else module}."
        )
    return f"{module}:{function}"


def _arguments(name: str, value: Any) -> Iterable[str]:
    """``--name value``, once for each of several values."""
    values = value if isinstance(value, list | tuple | set | range) else [] if value is None else [value]
    for each in values:
        yield f"--{name.replace('_', '-')}"
        yield os.fspath(each) if isinstance(each, os.PathLike) else str(each)
