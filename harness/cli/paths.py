"""Paths on the command line, which any program may have made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class AnyPath(click.Path):
    """As ``click.Path``, giving a ``pathlib.Path``; a name that no file can have is told as the user's mistake."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(path_type=Path, **arguments)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, checked."""
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:
            self.fail(f"a path must be one that a file can have: {error}. Received: {value!a}.", param, ctx)
