"""The tables in the formats of other tools: TensorBoard, MLPerf's log, CSV, Parquet. Each format is a file here.

A format's ``write(tables, folder, tell)`` gives the files that it made. What it needs beside the standard installation
is in `NEEDS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RunError

if TYPE_CHECKING:
    from ..tables.reading import Tables

FORMATS = ("csv", "mlperf", "parquet", "tensorboard")
NEEDS = {"parquet": ("fastparquet", "pyarrow"), "tensorboard": ("tensorboard",)}
"""Packages, of which one is needed."""


def export(tables: Tables, name: str, folder: Path, tell: Callable[[str], None] = lambda words: None) -> list[Path]:
    """Write the tables in a format of `FORMATS`. Files of an earlier export are replaced.

    Args:
        tell: told how far it is, often.

    Returns:
        The files.

    Raises:
        RunError: a package is missing, or a file can't be written.
    """
    if name in NEEDS and not any(map(_is_there, NEEDS[name])):
        package = NEEDS[name][0]
        raise RunError(f"--format {name} needs the package {package}, which is not installed: pip install {package}")
    writer = importlib.import_module(f"{__package__}.{name}_format")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return writer.write(tables, folder, tell)
    except OSError as error:
        raise RunError(f"the export can't be written: {error.strerror}. Received: {error.filename}") from None


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
