"""What is exported as tables: those of the results file, and the comparison that ``show`` prints."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..analysis.comparison import compare

if TYPE_CHECKING:
    import pandas as pd

    from ..tables.reading import Tables


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row by the columns' names."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def frames(tables: Tables) -> dict[str, pd.DataFrame]:
    """Name → table. ``comparison`` has a row for each row of ``show``, with intervals: see `comparison.compare`."""
    found = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    return found | {"comparison": compare(tables.runs)}
