"""What is exported as tables: those of the results file, and the comparison that ``show`` prints."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.comparison import compare

if TYPE_CHECKING:
    import pandas as pd

    from ..tables.reading import Tables


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row by the columns' names."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def ends(epochs: Sequence[Mapping[str, Any]], begin: float) -> list[float]:
    """When each epoch ended on the clock of training, which shows ``begin`` at its start, in seconds."""
    # Rank 0's time for an epoch is missing where a death interrupted it.
    seconds = [0.0 if math.isnan(row["seconds"]) else row["seconds"] for row in epochs]
    return list(itertools.accumulate(seconds, initial=begin))[1:]


def write_each(
    tables: Tables,
    folder: Path,
    suffix: str,
    tell: Callable[[str], None],
    save: Callable[[pd.DataFrame, Path], None],
) -> list[Path]:
    """A file for each table, and for the comparison: a row for each row of ``show``, as `comparison.compare` has it."""
    frames = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    made = []
    for name, frame in (frames | {"comparison": compare(tables.runs)}).items():
        tell(f"table {name}")
        made.append(folder / f"{name}{suffix}")
        save(frame, made[-1])
    return made
