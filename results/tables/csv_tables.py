"""The tables as CSV: UTF-8, a header, one line per row, ``true`` and ``false``; empty cells are missing values."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..column import Column, Columns
from ..raw.files import open_regular
from ..schema import TABLES

_READ_BYTES = 1 << 20
_WRITE_ROWS = 16_384


def write_header(target: Hashed, table: str) -> None:
    """Write the line with the column names of ``table``."""
    target.write(_header(table))


def write(target: Hashed, table: str, blocks: Iterable[Columns]) -> None:
    """Write the blocks' rows, one line per row."""
    for block in blocks:
        for start in range(0, len(block["run_id"]), _WRITE_ROWS):
            text = io.StringIO(newline="")
            cells = [_cells(c, block[c.name][start : start + _WRITE_ROWS]) for c in TABLES[table]]
            csv.writer(text, lineterminator="\n").writerows(zip(*cells, strict=True))
            target.write(text.getvalue().encode())


class Hashed:
    """Writes to ``target`` and computes the digest of the data."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write whole lines or parts of them."""
        self._hash.update(data)
        self._target.write(data)

    def restart(self) -> None:
        """Delete what was written and start again."""
        self._target.truncate(self._target.seek(0))
        self._hash = hashlib.sha256()

    def digest(self) -> str:
        """SHA-256 of all that was written, in hexadecimal digits."""
        return self._hash.hexdigest()


def copy(former: Path, target: Hashed, table: str, drop: Collection[str], digest: str) -> bool:
    """Copy the header and the rows of ``former``, without those of the runs in ``drop``.

    Returns:
        Whether ``former`` has this digest and the columns of ``table``; if not, the copy is not valid.

    Raises:
        OSError: it can't be read or the copy can't be written.
    """
    try:
        file = open_regular(former)
    except FileNotFoundError:
        return False
    with file:
        header = file.readline()
        if header != _header(table):
            return False
        target.write(header)
        found = hashlib.sha256(header)
        if drop:
            _copy_lines(file, target, drop, found)
        else:
            while part := file.read(_READ_BYTES):
                found.update(part)
                target.write(part)
        return found.hexdigest() == digest


def _copy_lines(file: BinaryIO, target: Hashed, drop: Collection[str], found: hashlib._Hash) -> None:
    # Each text is one line, see schema, and a run id needs no quotes.
    dropped = {run_id.encode() for run_id in drop}
    for line in file:
        found.update(line)
        if line.partition(b",")[0] not in dropped:
            target.write(line)


def has_digest(path: Path, digest: str) -> bool:
    """Whether ``path`` is a file with this SHA-256. Raises OSError."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def is_foreign(path: Path) -> bool:
    """Whether the file can't be a table of stratbench: its first column isn't the run's id. Raises OSError."""
    try:
        with open_regular(path) as file:
            return not file.readline(_READ_BYTES).startswith((b"run_id,", b"run_id\n"))
    except FileNotFoundError:
        return False


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
