"""Reading results back, as pandas tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd

from ...errors import ResultsError
from .. import schema
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
    tasks: pd.DataFrame


def load(path: str | os.PathLike[str]) -> Tables:
    """Read an output folder or an ``.h5`` file; see ``results.load``."""
    path = Path(path)
    file_path = path / HDF5_NAME if path.is_dir() else path
    if not file_path.exists():
        raise ResultsError(f"Results must be an output folder with {HDF5_NAME} in it, or an .h5 file. Received: {path}")
    with hdf5.reading(file_path) as file:
        return Tables(**{table: _frame(file, table) for table in schema.TABLES})


def _frame(file: h5py.File, table: str) -> pd.DataFrame:
    frame = pd.DataFrame(hdf5.read(file, table))
    texts = [column.name for column in schema.TABLES[table] if column.kind == "text"]
    # An empty column of texts would otherwise be of objects.
    return frame.astype(dict.fromkeys(texts, "str"))
