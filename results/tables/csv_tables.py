"""The tables as CSV: UTF-8, a header, a line a row, ``true`` and ``false``; empty cells are missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..schema import TABLES, Column, Columns

_READ_BYTES = 1 << 20
_WRITE_ROWS = 16_384


def write_header(target: BinaryIO, table: str) -> None:
    """Write the line with the column names of ``table``."""
    target.write(_header(table))


def write(target: BinaryIO, table: str, blocks: Iterable[Columns]) -> None:
    """Write the blocks' rows, a line each."""
    for block in blocks:
        for start in range(0, len(block["run_id"]), _WRITE_ROWS):
            text = io.StringIO(newline="")
            cells = [_cells(c, block[c.name][start : start + _WRITE_ROWS]) for c in TABLES[table]]
            csv.writer(text, lineterminator="\n").writerows(zip(*cells, strict=True))
            target.write(text.getvalue().encode())


def copy(former: Path, target: BinaryIO, table: str, drop: Collection[str]) -> int:
    """Copy the header and the rows of ``former``, but those of the runs in ``drop``.

    Returns:
        How many rows were copied; -1 if ``former`` isn't there or has other columns than ``table``.
    """
    try:
        with former.open("rb") as file:
            if file.readline() != _header(table):
                return -1
            write_header(target, table)
            return _copy_lines(file, target, drop) if drop else _copy_all(file, target)
    except FileNotFoundError:
        return -1


def _copy_lines(file: BinaryIO, target: BinaryIO, drop: Collection[str]) -> int:
    # Texts are one line each, see schema, and a run id needs no quotes.
    dropped = {run_id.encode() for run_id in drop}
    count = 0
    for line in file:
        if line.partition(b",")[0] not in dropped:
            target.write(line)
            count += 1
    return count


def _copy_all(file: BinaryIO, target: BinaryIO) -> int:
    count = 0
    while part := file.read(_READ_BYTES):
        target.write(part)
        count += part.count(b"\n")
    return count


def _header(table: str) -> bytes:
    return (",".join(column.name for column in TABLES[table]) + "\n").encode()


def _cells(column: Column, values: np.ndarray) -> Iterator[Any]:
    if column.kind == "float":
        return (_number(value) for value in values.tolist())
    if column.kind == "bool":
        return ("true" if value else "false" for value in values.tolist())
    return iter(values.tolist())


def _number(value: float) -> float | int | str:
    if value != value:
        return ""
    return int(value) if value.is_integer() else value
