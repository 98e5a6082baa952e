"""Tables that a command's argument names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import ResultsError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from ...results.tables.reading import Tables


T = TypeVar("T")


def read_tables(path: Path) -> Tables:
    """Of an output folder, or a results.h5. Raises UsageError if they can't be read."""
    from ...results import load

    return _told(load, path)


def read_runs(path: Path) -> pd.DataFrame:
    """The table of the runs alone, which is read in no time however many steps there were. Raises as `read_tables`."""
    from ...results.tables.reading import load_runs

    return _told(load_runs, path)


def _told(load: Callable[[Path], T], path: Path) -> T:
    try:
        return load(path)
    except ResultsError as error:
        raise UsageError(str(error)) from None
