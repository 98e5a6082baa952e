"""Reading results back, as pandas tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd

from ...errors import ResultsError
from .. import schema
from ..column import Columns
from ..raw.files import file_kind, shown, why
from . import hdf5
from .store import HDF5_NAME


@dataclass(frozen=True)
class Tables:
    """The tables of a results file; columns, units and missing values as in ``schema``."""

    runs: pd.DataFrame
    epochs: pd.DataFrame
    steps: pd.DataFrame
    updates: pd.DataFrame
    staleness: pd.DataFrame
    metrics: pd.DataFrame
    tasks: pd.DataFrame


def load(path: str | os.PathLike[str]) -> Tables:
    """Read an output folder or an ``.h5`` file; see ``results.load``."""
    with _opened(path) as file:
        columns = {table: hdf5.read(file, table) for table in schema.TABLES}
        known = set(columns["runs"]["run_id"].tolist())
        if any(not known.issuperset(table["run_id"].tolist()) for table in columns.values()):
            raise ValueError("rows of no run")
    return Tables(**{table: _frame(table, columns.pop(table)) for table in schema.TABLES})


def load_runs(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table ``runs`` alone, which is small however many steps there were. Raises as ``results.load``."""
    with _opened(path) as file:
        return _frame("runs", hdf5.read(file, "runs"))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """The file of an output folder, or an ``.h5`` file."""
    path = Path(path)
    try:
        file_path = path / HDF5_NAME if file_kind(path) == "folder" else path
        there = file_kind(file_path) is not None
    except OSError as error:
        raise ResultsError(f"Results must be readable. Received: {shown(path)}: {why(error)}") from error
    if not there:
        raise ResultsError(
            f"Results must be an output folder with {HDF5_NAME} in it, or an .h5 file. Received: {shown(path)}"
        )
    with hdf5.reading(file_path) as file, hdf5.guard(file_path):
        yield file


def _frame(table: str, columns: Columns) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    texts = [column.name for column in schema.TABLES[table] if column.kind == "text"]
    # Without this, an empty text column would have the type object.
    return frame.astype(dict.fromkeys(texts, "str"))
