"""Results: the files of a run, the tables built from them, and how they are compared and shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tables.reading import Tables


def load(path: str | os.PathLike[str]) -> Tables:
    """Read an output folder, or a results file, into pandas tables.

    Args:
        path: an output folder (its ``results.h5`` is read) or an ``.h5`` file.

    Returns:
        ``Tables`` with the DataFrames ``runs``, ``epochs``, ``metrics``, ``steps``, ``updates``, ``staleness`` and
        ``tasks``; columns as in ``schema``.

    Raises:
        ResultsError: the file is missing, not a results file, damaged, or written by a newer stratbench.
    """
    # Workers import this package for the journal. They must not spend time on importing pandas and h5py.
    from .tables.reading import load as load_tables

    return load_tables(path)
