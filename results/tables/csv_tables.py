"""The tables as CSV: UTF-8, a header, one line per row, ``true`` and ``false``; empty cells are missing values.

Tables with a row a step are compressed: a million steps are 100 MB as text. Each part that is written is its own member
of the gzip file (RFC 1952 allows many), so that rows are added without compressing the former ones again.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..column import Column, Columns
from ..raw.files import open_regular
from ..schema import TABLES

_READ_BYTES = 1 << 20
_WRITE_ROWS = 16_384
COMPRESSED = frozenset({"steps", "updates"})
"""Tables with a row a step."""
_COMPRESSION = 6
_NOT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


def name(table: str) -> str:
    """Of the table's file in the output folder."""
    return f"{table}.csv.gz" if table in COMPRESSED else f"{table}.csv"


def write_header(target: Hashed, table: str) -> None:
    """Write the line with the column names of ``table``."""
    target.write(_encoded(table, _header(table)))


def write(target: Hashed, table: str, blocks: Iterable[Columns]) -> None:
    """Write the blocks' rows, one line per row."""
    for block in blocks:
        for start in range(0, len(block["run_id"]), _WRITE_ROWS):
            text = io.StringIO(newline="")
            cells = [_cells(c, block[c.name][start : start + _WRITE_ROWS]) for c in TABLES[table]]
            csv.writer(text, lineterminator="\n").writerows(zip(*cells, strict=True))
            target.write(_encoded(table, text.getvalue().encode()))


class Hashed:
    """Writes to ``target`` and computes the digest of the data."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write a part of the file."""
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
        with open_regular(former) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return False
            file.seek(0)
            lines = _lines(former, file)
            if lines.readline() != _header(table):
                return False
            if drop:
                write_header(target, table)
                _copy_lines(lines, target, table, drop)
            else:
                file.seek(0)
                shutil.copyfileobj(file, target, _READ_BYTES)
            return True
    except (FileNotFoundError, *_NOT_GZIP):
        return False


def _copy_lines(lines: BinaryIO, target: Hashed, table: str, drop: Collection[str]) -> None:
    # Each text is one line, see schema, and a run id needs no quotes.
    dropped = {run_id.encode() for run_id in drop}
    while some := lines.readlines(_READ_BYTES):
        target.write(_encoded(table, b"".join(line for line in some if line.partition(b",")[0] not in dropped)))


def has_digest(path: Path, digest: str) -> bool:
    """Whether ``path`` is a file with this SHA-256. Raises OSError."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def is_foreign(path: Path) -> bool:
    """Whether the file can't be a table of stratbench: its first column isn't the run's id. Raises OSError."""
    line = _first_line(path)
    return line is not None and not line.startswith((b"run_id,", b"run_id\n"))


def _first_line(path: Path) -> bytes | None:
    """None if there is no file; empty if it can't be decompressed. Raises OSError."""
    try:
        with open_regular(path) as file:
            return _lines(path, file).readline(_READ_BYTES)
    except FileNotFoundError:
        return None
    except _NOT_GZIP:
        return b""


def _lines(path: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file


def _encoded(table: str, lines: bytes) -> bytes:
    # Without a time, equal rows are equal bytes.
    return gzip.compress(lines, _COMPRESSION, mtime=0) if table in COMPRESSED else lines


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
