"""The report's pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..showing.workloads import workloads
from ..tables.reading import Tables
from . import charts
from .studies import studies

_WIDTH = 640
_FORMATS: tuple[Literal["svg", "png"], ...] = ("svg", "png")


def save(tables: Tables, folder: Path) -> list[Path]:
    """Write each picture of each workload as SVG and PNG. Raises OSError.

    Returns:
        the files, named ``<number of the workload>-<picture>``, or ``study-<number>-<picture>`` of several workloads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = workloads(tables.runs)
    made: list[Path] = []
    for number, study in enumerate(studies(found), start=1):
        made += _save(charts.by_batch(study), study.title, folder, f"study-{number}")
    for number, workload in enumerate(found, start=1):
        made += _save(charts.pictures(workload.rows, tables), workload.title, folder, str(number))
    return made


def _save(pictures: charts.Pictures, title: str, folder: Path, prefix: str) -> list[Path]:
    made = []
    for name, (_, chart) in pictures.items():
        # A file has no window whose width it could take.
        sized = chart.properties(width=_WIDTH, title=title)
        for kind in _FORMATS:
            made.append(folder / f"{prefix}-{name}.{kind}")
            sized.save(made[-1], format=kind)
    return made
