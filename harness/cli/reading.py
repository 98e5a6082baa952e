"""Tables that a command's argument names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ResultsError, UsageError

if TYPE_CHECKING:
    from ...results.tables.reading import Tables


def read_tables(path: Path) -> Tables:
    """Of an output folder, or a results.h5. Raises UsageError if they can't be read."""
    from ...results import load

    try:
        return load(path)
    except ResultsError as error:
        raise UsageError(str(error)) from None
