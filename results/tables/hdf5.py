"""The tables in HDF5: each table is a group, each column a one-dimensional dataset in it.

Text is fixed-length UTF-8: a run's id on a million steps then compresses to almost nothing and can be copied without
decoding. Variable-length text would take 50 bytes and a heap entry per row. Integers are int64, floats float64,
booleans int8.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from ... import __version__
from ..column import Column, Columns
from ..raw import checked
from ..schema import SCHEMA_VERSION, TABLES
from .opening import USER_BLOCK_BYTES, guard, reading, seal

__all__ = ["blocks", "csv_digests", "finish", "guard", "merge", "read", "reading", "rows", "unknown"]

# Rows that are in memory at a time, in addition to the file's own image.
BLOCK_ROWS = 65_536
_CSV_DIGEST = "csv_sha256"
_CHUNK_BYTES = 32_768
_TEXT_STEP = 16

# NumPy's letters of the types that the file may have for each kind, and the largest compression of deflate.
_KINDS = {"text": "S", "int": "i", "float": "f", "bool": "ib"}
_MOST_DEFLATED = 1032

_DTYPES = {"int": np.dtype(np.int64), "float": np.dtype(np.float64), "bool": np.dtype(np.int8)}


def unknown(file: h5py.File) -> list[str]:
    """Names in the file that are not tables or columns of this version: writing would remove them."""
    known = {table: {column.name for column in columns} for table, columns in TABLES.items()}
    others = [f"{table}/{name}" for table in known if table in file for name in set(file[table]) - known[table]]
    return sorted([*(set(file) - known.keys()), *others])


def rows(file: h5py.File, table: str) -> int:
    """How many rows ``table`` has; 0 if the file is older than the table."""
    return len(file[table]["run_id"]) if table in file else 0


def read(file: h5py.File, table: str, start: int = 0, stop: int | None = None) -> Columns:
    """Rows ``start`` to ``stop - 1`` of ``table``; columns that the file doesn't have get missing values."""
    count = rows(file, table)
    stop = count if stop is None else min(stop, count)
    group = file.get(table, {})
    found = {
        column.name: _read_column(group[column.name], column, start, stop)
        if column.name in group
        else column.missing(stop - start)
        for column in TABLES[table]
    }
    if table == "runs":
        checked.runs(found)
    return found


def blocks(file: h5py.File, table: str) -> Iterator[Columns]:
    """All rows of ``table``, ``BLOCK_ROWS`` at a time."""
    for start in range(0, rows(file, table), BLOCK_ROWS):
        yield read(file, table, start, start + BLOCK_ROWS)


def _read_column(dataset: h5py.Dataset, column: Column, start: int, stop: int) -> np.ndarray:
    if dataset.dtype.kind not in _KINDS[column.kind] or dataset.ndim != 1:
        raise ValueError(f"{dataset.name} does not fit its column")
    if dataset.size * dataset.dtype.itemsize > dataset.id.get_storage_size() * _MOST_DEFLATED:
        raise ValueError(f"{dataset.name} has more rows than the file can hold")
    values = dataset[start:stop]
    if len(values) != stop - start:
        raise ValueError(f"{dataset.name} does not fit its table")
    if column.kind == "text":
        return _decode(values)
    values = values.astype(np.bool_ if column.kind == "bool" else _DTYPES[column.kind])
    checked.check(column, values)
    return values


def _decode(values: np.ndarray) -> np.ndarray:
    """Bytes to str. Equal values follow one another, as rows of one run do; each group is decoded once."""
    if not len(values):
        return values.astype(object)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    texts = np.fromiter((value.decode() for value in values[starts]), dtype=object, count=len(starts))
    return np.repeat(texts, np.diff(starts, append=len(values)))


def merge(old: h5py.File | None, drop: Collection[str], added: Mapping[str, Sequence[Columns]]) -> io.BytesIO:
    """A results file with the rows of ``old``, without those of the runs in ``drop``, then the ``added`` rows.

    The file is made in memory, and the caller writes it: when the disk is full, HDF5 itself fails only while closing,
    and ends the whole interpreter. Without ``drop``, old columns are copied without decompressing them.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=USER_BLOCK_BYTES) as new:
        new.attrs["schema_version"] = SCHEMA_VERSION
        new.attrs["created_by"] = f"stratbench {__version__}"
        for table, columns in TABLES.items():
            kept = _kept(old, table, drop)
            for column in columns:
                _merge_column(old, new.require_group(table), column, kept, added[table])
    return image


def finish(image: io.BytesIO, digests: Mapping[str, str]) -> None:
    """Write the digest of each CSV table into a file that ``merge`` made, then its own digest."""
    with h5py.File(image, "r+") as new:
        for table, digest in digests.items():
            new[table].attrs[_CSV_DIGEST] = digest
    seal(image)


def csv_digests(file: h5py.File) -> dict[str, str]:
    """SHA-256 of the CSV tables that belong to the file; none for tables of older versions."""
    found = {table: file[table].attrs.get(_CSV_DIGEST) for table in TABLES if table in file}
    return {table: digest for table, digest in found.items() if isinstance(digest, str)}


def _kept(old: h5py.File | None, table: str, drop: Collection[str]) -> np.ndarray:
    """Which of the old rows stay."""
    if old is None or table not in old:
        return np.empty(0, dtype=bool)
    count = rows(old, table)
    kept = np.ones(count, dtype=bool)
    if drop:
        for start in range(0, count, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, count)
            ids = _read_column(old[table]["run_id"], TABLES[table][0], start, stop)
            kept[start:stop] = ~np.isin(ids, list(drop))
    return kept


def _merge_column(
    old: h5py.File | None, group: h5py.Group, column: Column, kept: np.ndarray, added: Sequence[Columns]
) -> None:
    name = f"{group.name}/{column.name}"
    source = old[name] if old is not None and name in old else None
    dtype = _dtype(column, source, [block[column.name] for block in added])
    if source is not None and _fits(source, dtype, len(kept)) and kept.all():
        group.copy(source, group, column.name)
        dataset, end = group[column.name], len(kept)
    else:
        dataset, end = _create(group, column, dtype), 0
        for start in range(0, len(kept), BLOCK_ROWS):
            mask = kept[start : start + BLOCK_ROWS]
            stop = start + len(mask)
            block = column.missing(len(mask)) if source is None else _read_column(source, column, start, stop)
            end = _append(dataset, end, block[mask], column)
    for values in (block[column.name] for block in added):
        for start in range(0, len(values), BLOCK_ROWS):
            end = _append(dataset, end, values[start : start + BLOCK_ROWS], column)
    dataset.attrs["unit"] = column.unit
    dataset.attrs["description"] = column.description


def _fits(source: h5py.Dataset, dtype: Any, count: int) -> bool:
    """Whether rows can be appended to a copy of it."""
    return source.dtype == dtype and source.shape == (count,) and source.maxshape == (None,)


def _dtype(column: Column, source: h5py.Dataset | None, added: Sequence[np.ndarray]) -> Any:
    """The column's type in the file; text is as wide as its longest value, and never narrower than before."""
    if column.kind != "text":
        return _DTYPES[column.kind]
    longest = max((len(text.encode()) for values in added for text in set(values)), default=0)
    width = max(longest, 1, 0 if source is None else source.dtype.itemsize)
    return h5py.string_dtype("utf-8", -(-width // _TEXT_STEP) * _TEXT_STEP)


def _create(group: h5py.Group, column: Column, dtype: Any) -> h5py.Dataset:
    return group.create_dataset(
        column.name,
        shape=(0,),
        maxshape=(None,),
        dtype=dtype,
        chunks=(max(1, _CHUNK_BYTES // dtype.itemsize),),
        compression="gzip",
        shuffle=True,
    )


def _append(dataset: h5py.Dataset, end: int, values: np.ndarray, column: Column) -> int:
    """Write ``values`` after the first ``end`` rows. Returns the new end."""
    if column.kind == "text":
        encoded = {text: text.encode() for text in set(values)}
        values = np.array([encoded[text] for text in values], dtype=dataset.dtype)
    if len(values):
        dataset.resize((end + len(values),))
        dataset[end:] = values
    return end + len(values)
