"""The report's pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..showing.workloads import workloads
from ..tables.reading import Tables
from . import charts

_WIDTH = 640
_FORMATS: tuple[Literal["svg", "png"], ...] = ("svg", "png")


def save(tables: Tables, folder: Path) -> list[Path]:
    """Write each picture of each workload as SVG and PNG. Raises OSError.

    Returns:
        the files, named ``<number of the workload>-<picture>``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, workload in enumerate(workloads(tables.runs), start=1):
        for name, (_, chart) in charts.pictures(workload.rows, tables).items():
            # A file has no window whose width it could take.
            sized = chart.properties(width=_WIDTH, title=workload.title)
            for kind in _FORMATS:
                path = folder / f"{number}-{name}.{kind}"
                sized.save(path, format=kind)
                made.append(path)
    return made
