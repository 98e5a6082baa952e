"""What a column of a table is, and how its values are kept: in arrays, in JSON, in text that every format can hold."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["text", "int", "float", "bool"]

# Of one cell. All texts of a column take as many bytes as the longest one.
MOST_TEXT_BYTES = 65_536
_CUT = " …".encode()

# A table, or part of one: each column's values as a one-dimensional array. All have the same length.
Columns = dict[str, np.ndarray]

_DTYPES: dict[str, Any] = {"text": object, "int": np.int64, "float": np.float64, "bool": np.bool_}
_MISSING: dict[str, Any] = {"text": "", "int": 0, "float": math.nan, "bool": False}


@dataclass(frozen=True)
class Column:
    """One column. Only ``text`` ("") and ``float`` (NaN) columns may have missing values."""

    name: str
    kind: Kind
    unit: str
    description: str

    def array(self, values: Sequence[Any]) -> np.ndarray:
        """These values as this column's array; None becomes the missing value."""
        if self.kind == "text":
            clean = {value: _one_line(value) for value in set(values)}
            return np.fromiter((clean[value] for value in values), dtype=object, count=len(values))
        if self.kind == "float":
            values = [math.nan if value is None else value for value in values]
        return np.array(values, dtype=_DTYPES[self.kind])

    def missing(self, count: int) -> np.ndarray:
        """``count`` missing values, for rows from before this column existed."""
        return np.full(count, _MISSING[self.kind], dtype=_DTYPES[self.kind])


def _one_line(value: Any) -> str:
    """Text that every format can hold: one line, no NUL, valid UTF-8, cut if it is too long."""
    text = "" if value is None else re.sub(r"[\r\n\0]+", " ", str(value))
    encoded = text.encode(errors="replace")
    if len(encoded) > MOST_TEXT_BYTES:
        encoded = encoded[: MOST_TEXT_BYTES - len(_CUT)].decode(errors="ignore").encode() + _CUT
    return encoded.decode()


def json_cell(value: Any) -> Any:
    """A cell for strict JSON: NaN becomes null, an infinite loss becomes text, so that it is not lost."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
