"""Checks of values that another program may have written or changed, by the columns that they are for.

Values that pass can be stored in every format and shown: kinds, ranges and lengths fit, and a run's row has what
other code relies on. Everything here raises ValueError with one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, Strict, TypeAdapter, ValidationError

from .. import schema
from ..column import MOST_TEXT_BYTES, Column, Columns

MOST_NAME_BYTES = 255
"""Of names in tables of many rows. A text column is as wide as its longest value."""
_NAMES = ("run_id", "role", "split", "metric")

_KINDS: dict[str, TypeAdapter[Any]] = {
    "text": TypeAdapter(list[Annotated[str, Strict()] | None]),
    "int": TypeAdapter(list[Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]]),
    # Infinities are text in JSON: see column.json_cell.
    "float": TypeAdapter(list[Annotated[float, Strict()] | Literal["inf", "-inf"] | None]),
    "bool": TypeAdapter(list[Annotated[bool, Strict()]]),
}
_AT_LEAST_ONE = ("replicas", "global_batch", "per_replica_batch", "cores_per_replica", "epochs", "steps")
_JSON_OBJECTS = ("options", "spec")
_COUNTED = ("epochs", "steps", "examples", "replicas", "bytes", "updates")


def array(column: Column, values: Any) -> np.ndarray:
    """A column's values from JSON, as its array. None and infinities are as ``column.json_cell`` writes them."""
    try:
        checked = _KINDS[column.kind].validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" for part in first["loc"][:1])
        raise ValueError(f"{column.name}{place}: {first['msg']}, not {short(first['input'])}") from None
    if column.kind == "text":
        _check_texts(column, checked)
    found = column.array(checked)
    check(column, found)
    return found


def short(value: Any) -> str:
    """A value for a message: printable, on one line, at most 60 characters."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_texts(column: Column, texts: Sequence[str | None]) -> None:
    for text in set(texts) - {None, ""}:
        try:
            size = len(str(text).encode())
        except UnicodeEncodeError:
            raise ValueError(f"{column.name} must be text that UTF-8 can hold, not {short(text)}") from None
        most = MOST_NAME_BYTES if column.name in _NAMES else MOST_TEXT_BYTES
        if size > most:
            raise ValueError(f"{column.name} must be at most {most} bytes long, not {size}")


def check(column: Column, values: np.ndarray) -> None:
    """Raise ValueError for an infinite number in a column that counts something."""
    if column.kind == "float" and column.unit in _COUNTED and np.isinf(values).any():
        raise ValueError(f"{column.name} must be finite")


def row(table: str, values: Any) -> dict[str, Any]:
    """One complete row of ``table`` from JSON: columns that are not there get missing values."""
    if not isinstance(values, Mapping):
        raise ValueError(f"a row of {table} must be an object, not {short(values)}")
    known = [column for column in schema.TABLES[table] if column.name in values]
    if unknown := values.keys() - {column.name for column in known}:
        raise ValueError(f"a row of {table} has no column {short(min(unknown))}")
    return schema.row(table, {column.name: array(column, [values[column.name]]).item() for column in known})


def columns(table: str, lists: Any) -> Columns:
    """Columns of ``table`` from JSON, all of one length: columns that are not there get missing values."""
    if not isinstance(lists, Mapping):
        raise ValueError(f"{table} must be an object of columns, not {short(lists)}")
    known = schema.TABLES[table]
    if unknown := lists.keys() - {column.name for column in known}:
        raise ValueError(f"{table} has no column {short(min(unknown))}")
    count = len(array(known[0], lists["run_id"]))
    found = {c.name: array(c, lists[c.name]) if c.name in lists else c.missing(count) for c in known}
    if any(len(values) != count for values in found.values()):
        raise ValueError(f"the columns of {table} must be of one length")
    return found


def runs(columns: Columns) -> None:
    """Raise ValueError for rows of the runs table that no run can have, and for two rows of one run."""
    ids = columns["run_id"].tolist()
    if "" in ids or len(set(ids)) < len(ids):
        raise ValueError("every run must have an id of its own")
    if unknown := set(columns["status"].tolist()) - set(schema.STATUSES):
        raise ValueError(f"status must be one of {', '.join(schema.STATUSES)}, not {short(unknown.pop())}")
    for name in _AT_LEAST_ONE:
        if (columns[name] < 1).any():
            raise ValueError(f"{name} must be at least 1")
    for name in _JSON_OBJECTS:
        for text in set(columns[name].tolist()) - {""}:
            if not _is_object(text):
                raise ValueError(f"{name} must be a JSON object, not {short(text)}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def no_constant(name: str) -> float:
    """For ``json.loads``: NaN and Infinity are not JSON, and ``Record.save`` does not write them."""
    raise ValueError(f"{name} is not JSON")


def belongs(columns: Columns, run_id: str) -> None:
    """Raise ValueError for rows of another run."""
    if others := set(columns["run_id"].tolist()) - {run_id}:
        raise ValueError(f"all rows must be of run {short(run_id)}, not {short(others.pop())}")
