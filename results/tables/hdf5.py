"""The tables in HDF5: a group a table, a dataset of one dimension a column.

Text is fixed-length UTF-8: a run's id on a million steps then compresses to next to nothing, and copies
raw, where variable-length text would take 50 bytes and a heap entry a row. Integers are int64, floats
float64, booleans int8.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ... import __version__
from ...errors import ResultsError
from ..schema import SCHEMA_VERSION, TABLES, Column, Columns

# Rows that are in memory at a time, beside the file's own image.
BLOCK_ROWS = 65_536
_CHUNK_BYTES = 32_768
_TEXT_STEP = 16

_DTYPES = {"int": np.dtype(np.int64), "float": np.dtype(np.float64), "bool": np.dtype(np.int8)}


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open a results file, having checked that it is one and not newer than this program.

    Raises:
        ResultsError: it isn't there, isn't HDF5, isn't ours, is damaged (also while in use), or is newer.
    """
    try:
        # Files are replaced, never changed in place, so that no reader needs HDF5's own locks, which NFS
        # refuses.
        with h5py.File(path, "r", locking=False) as file:
            _check_version(file, path)
            yield file
    except (PermissionError, FileNotFoundError) as error:
        raise ResultsError(f"A results file must be readable. Received: {path}: {error.strerror}") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ResultsError(
            f"A results file must be whole HDF5. Received: {path}, which is truncated, damaged or something "
            "else. Move it away: the next command with this --output rebuilds it from runs/*/record.json."
        ) from error


def _check_version(file: h5py.File, path: Path) -> None:
    if "schema_version" not in file.attrs:
        raise ResultsError(
            f"A results file must be written by stratbench. Received: {path}, which has no schema_version. "
            "Choose another --output."
        )
    version = int(file.attrs["schema_version"])
    if version > SCHEMA_VERSION:
        raise ResultsError(
            f"{path.name} has schema {version}; this stratbench reads up to {SCHEMA_VERSION}. "
            "Upgrade stratbench or choose another --output"
        )


def rows(file: h5py.File, table: str) -> int:
    """How many rows ``table`` has; 0 where the file is from before the table."""
    return len(file[table]["run_id"]) if table in file else 0


def read(file: h5py.File, table: str, start: int = 0, stop: int | None = None) -> Columns:
    """Rows ``start`` to before ``stop`` of ``table``; columns that the file lacks are missing values."""
    count = rows(file, table)
    stop = count if stop is None else min(stop, count)
    group = file.get(table, {})
    return {
        column.name: _read_column(group[column.name], column, start, stop)
        if column.name in group
        else column.missing(stop - start)
        for column in TABLES[table]
    }


def blocks(file: h5py.File, table: str) -> Iterator[Columns]:
    """All rows of ``table``, ``BLOCK_ROWS`` at a time."""
    for start in range(0, rows(file, table), BLOCK_ROWS):
        yield read(file, table, start, start + BLOCK_ROWS)


def _read_column(dataset: h5py.Dataset, column: Column, start: int, stop: int) -> np.ndarray:
    values = dataset[start:stop]
    if values.shape != (stop - start,) or (values.dtype.kind == "S") != (column.kind == "text"):
        raise ValueError(f"{dataset.name} does not fit its table")
    if column.kind == "text":
        return _decode(values)
    return values.astype(np.bool_ if column.kind == "bool" else _DTYPES[column.kind])


def _decode(values: np.ndarray) -> np.ndarray:
    """Bytes to str, each stretch of equal values once: they come a run at a time."""
    if not len(values):
        return values.astype(object)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    texts = np.fromiter((value.decode() for value in values[starts]), dtype=object, count=len(starts))
    return np.repeat(texts, np.diff(starts, append=len(values)))


def merge(old: h5py.File | None, drop: Collection[str], added: Mapping[str, Sequence[Columns]]) -> io.BytesIO:
    """A results file with ``old``'s rows, less those of the runs in ``drop``, then the ``added`` ones.

    The file is made in memory and left to the caller to write: HDF5 itself, when the disk is full, fails only
    while closing and takes the interpreter down. Without ``drop``, old columns are copied as they are
    compressed.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as new:
        new.attrs["schema_version"] = SCHEMA_VERSION
        new.attrs["created_by"] = f"stratbench {__version__}"
        for table, columns in TABLES.items():
            kept = _kept(old, table, drop)
            for column in columns:
                _merge_column(old, new.require_group(table), column, kept, added[table])
    return image


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
    if source is not None and source.dtype == dtype and len(source) == len(kept) and kept.all():
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


def _dtype(column: Column, source: h5py.Dataset | None, added: Sequence[np.ndarray]) -> Any:
    """The column's type in the file; text as wide as its longest value, never narrower than it was."""
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
    """Write ``values`` after the first ``end`` rows and give the new end."""
    if column.kind == "text":
        encoded = {text: text.encode() for text in set(values)}
        values = np.array([encoded[text] for text in values], dtype=dataset.dtype)
    if len(values):
        dataset.resize((end + len(values),))
        dataset[end:] = values
    return end + len(values)
