"""The tables of an output folder's all-reduces: ``allreduce.h5``, and each table as CSV."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ...errors import ResultsError
from ..column import Column
from ..raw.files import Staging, file_kind, open_regular, shown, why
from ..tables.lock import FolderLock
from .columns import TABLES

NAME = "allreduce.h5"
_DTYPES: dict[str, Any] = {"text": "str", "int": np.int64, "float": np.float64}


@dataclass(frozen=True)
class Reductions:
    """The tables as pandas has them; columns and units as in `stratbench.results.reductions.columns`."""

    transports: pd.DataFrame
    reductions: pd.DataFrame
    samples: pd.DataFrame


def csv_name(table: str) -> str:
    """Of the table's file in the output folder."""
    return f"allreduce-{table}.csv"


def load(folder: str | os.PathLike[str]) -> Reductions:
    """Read an output folder; without an ``allreduce.h5`` all tables are empty.

    Raises ResultsError if it can't be read, is damaged, or is not one of stratbench's.
    """
    path = Path(folder) / NAME
    try:
        if file_kind(path) is None:
            return Reductions(**{table: _frame(columns, []) for table, columns in TABLES.items()})
        with open_regular(path) as raw, h5py.File(raw, "r") as file:
            return Reductions(**{table: _read(file[table], columns) for table, columns in TABLES.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = why(error) if isinstance(error, OSError) and error.errno else "it is damaged or not stratbench's"
        raise ResultsError(
            f"{NAME} must be a readable file of stratbench's. Received: {shown(path)}: {reason}. "
            "Move it away or choose another --output."
        ) from error


class ReductionStore:
    """Adds rows to the tables of an output folder, which it locks until the end of the ``with`` block.

    Raises ResultsError: the folder or its tables can't be used, or another process uses it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"The output folder must be writable. Received: {shown(folder)}: {why(error)}. Choose another --output."
            ) from error
        self._lock = FolderLock(folder)
        try:
            self._tables = load(folder)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> ReductionStore:
        """Nothing is written yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock."""
        self._lock.release()

    def add(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write all tables with these rows, each with all columns or with some of them."""
        tables = Reductions(
            **{
                table: pd.concat([getattr(self._tables, table), _frame(TABLES[table], rows[table])], ignore_index=True)
                for table in TABLES
            }
        )
        try:
            with Staging() as staging:
                for table in TABLES:
                    with staging.file(self.folder / csv_name(table)) as file:
                        getattr(tables, table).to_csv(file, index=False)
                with staging.file(self.folder / NAME) as file:
                    file.write(_image(tables))
        except OSError as error:
            raise ResultsError(
                f"The tables must be writable. Received: {shown(self.folder)}: {why(error)}. The measured seconds stay "
                f"in its folder allreduce."
            ) from error
        self._tables = tables


def _frame(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame({c.name: pd.Series(_values(c, rows), dtype=_DTYPES[c.kind]) for c in columns})


def _values(column: Column, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return column.array([row.get(column.name, column.missing(1)[0]) for row in rows])


def _image(tables: Reductions) -> bytes:
    """The HDF5 file. A full disk would end the interpreter, if HDF5 itself wrote it."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for field in fields(tables):
            frame, group = getattr(tables, field.name), file.create_group(field.name)
            for column in TABLES[field.name]:
                values = frame[column.name].to_numpy()
                kind = h5py.string_dtype() if column.kind == "text" else _DTYPES[column.kind]
                dataset = group.create_dataset(column.name, data=values.astype(kind), dtype=kind)
                dataset.attrs["unit"], dataset.attrs["description"] = column.unit, column.description
    return image.getvalue()


def _read(group: h5py.Group, columns: Sequence[Column]) -> pd.DataFrame:
    count = len(group["run_id"])
    found = {}
    for column in columns:
        if column.name not in group:
            values = column.missing(count)
        elif column.kind == "text":
            values = group[column.name].asstr()[()]
        else:
            values = group[column.name][()]
        found[column.name] = pd.Series(values, dtype=_DTYPES[column.kind])
    return pd.DataFrame(found)
