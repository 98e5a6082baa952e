"""CSV: as beside the results file, and the comparison in addition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ._frames import write_each

if TYPE_CHECKING:
    from ..tables.reading import Tables


def write(tables: Tables, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """A file for each table."""
    return write_each(tables, folder, ".csv", tell, lambda frame, path: frame.to_csv(path, index=False))
