"""CSV: as beside the results file, and the comparison in addition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ._frames import frames

if TYPE_CHECKING:
    from ..tables.reading import Tables


def write(tables: Tables, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """A file for each table."""
    made = []
    for name, frame in frames(tables).items():
        tell(f"table {name}")
        made.append(folder / f"{name}.csv")
        frame.to_csv(made[-1], index=False)
    return made
