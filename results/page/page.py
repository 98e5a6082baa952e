"""The report as one HTML page that needs no network: words, tables and interactive pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from ... import __version__
from .. import schema
from ..analysis.bases import Row
from ..showing import doubts, remarks, verdict, words
from ..showing.workloads import Workload, workloads
from ..tables.reading import Tables
from . import charts
from .studies import Study, studies

_HERE = Path(__file__).parent
_MOST_PICTURE_BYTES = 3_000_000
_MOST_PICTURED = 25
"""Workloads with pictures, so that a page of many is written and opened quickly."""


@dataclass(frozen=True)
class Cell:
    """A figure in a table: as shown, its interval if it has one, and the value to sort by."""

    text: str
    interval: str = ""
    order: float | str = ""


@dataclass(frozen=True)
class Section:
    """A workload on the page, or a picture of several.

    Attributes:
        sentences: what the rows answer.
        table: for each row its cells, and its runs; none for a picture.
        notes: what the figures rest on, and what there is to say of single rows.
        pictures: name → what it shows, and its Vega-Lite specification.
        left_out: which pictures there are not, and why.
    """

    title: str
    sentences: list[str]
    table: list[tuple[list[Cell], list[dict[str, Any]]]]
    notes: list[str]
    pictures: dict[str, tuple[str, dict[str, Any]]]
    left_out: str


def build(tables: Tables, name: str) -> str:
    """The page's HTML.

    Args:
        name: of the results, such as their folder.
    """
    found = workloads(tables.runs)
    sections = [section for each in studies(found) if (section := _study(each)).pictures]
    room = _MOST_PICTURE_BYTES
    for workload in found:
        section, taken = _section(workload, tables, room if len(sections) < _MOST_PICTURED else 0)
        room -= taken
        sections.append(section)
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(_HERE), undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        name=name,
        sections=sections,
        headings=list(_CELLS),
        style=(_HERE / "page.css").read_text(),
        script=(_HERE / "page.js").read_text(),
        vega=_vega() if any(section.pictures for section in sections) else "",
        machines=_machines(tables),
        counts=tables.runs["status"].value_counts().to_dict(),
        version=__version__,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    )


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as JavaScript, which comes with vl-convert."""
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]


def _study(study: Study) -> Section:
    made = {name: (text, chart.to_dict()) for name, (text, chart) in charts.by_batch(study).items()}
    return Section(f"By global batch: {study.title}", [], [], [], made, "")


def _section(workload: Workload, tables: Tables, room: int) -> tuple[Section, int]:
    """The section, and the bytes of its pictures."""
    rows = workload.rows
    timed = sum(bool(row["rates"]) for row in rows)
    made = charts.pictures(rows, tables) if room > 0 else {}
    pictures = {name: (text, chart.to_dict()) for name, (text, chart) in made.items()}
    size = len(json.dumps(pictures))
    left_out = ""
    if timed and (room <= 0 or size > room):
        pictures, size = {}, 0
        left_out = "Pictures of this workload are left out, as there are many: make a report of fewer runs."
    elif timed > charts.MOST_ROWS:
        left_out = f"Pictures show the {charts.MOST_ROWS} rows with the highest rates."
    section = Section(
        title=workload.title,
        sentences=verdict.sentences(rows),
        table=[([cell(row) for cell in _CELLS.values()], [_run(run) for run in row["all_runs"]]) for row in rows],
        notes=remarks.captions(rows) + remarks.remarks(rows),
        pictures=pictures,
        left_out=left_out,
    )
    return section, size


def _run(run: Row) -> dict[str, Any]:
    return {name: run[name] for name in ("run_id", "status", "reason", "disturbed")} | {
        "rate": words.rate(run["examples_per_second"])
    }


def _machines(tables: Tables) -> list[dict[str, str]]:
    """Each machine and set of versions that runs were made with, with the number of runs."""
    names = [column.name for column in schema.ENVIRONMENT if not column.name.startswith("memory_")]
    counted = tables.runs.groupby(names, sort=False, dropna=False).size()
    return [
        dict(zip([*names, "runs"], map(str, (*tuple(key), count)), strict=True))  # type: ignore[arg-type]
        for key, count in counted.items()
    ]


def _figure(
    name: str, form: Callable[[float], str], factor: float = 1.0, mark: Callable[[Row], str] | None = None
) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value, low, high = (row[name + end] * factor for end in ("", "_low", "_high"))
        interval = "" if math.isnan(low) or low == high else f"{form(low)}–{form(high)}"
        order = "" if math.isnan(value) else value
        return Cell((mark(row) if mark else "") + form(value), interval, order)

    return cell


def _form(text: str) -> Callable[[float], str]:
    return lambda value: words.number(value, text)


def _plain(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(str(row[name]), order=row[name])


def _share(part: str) -> Callable[[Row], Cell]:
    return _figure(f"{part}_share", _form(".1f"), 100)


def _megabytes(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = row[name] / 1e6
        return Cell(words.number(value, ",.0f"), order="" if math.isnan(value) else value)

    return cell


_CELLS: dict[str, Callable[[Row], Cell]] = {
    "strategy": lambda row: Cell(words.strategy(row), order=words.strategy(row)),
    "replicas": _plain("replicas"),
    "global batch": _plain("global_batch"),
    "examples per second": _figure("examples_per_second", words.rate, mark=doubts.rate_mark),
    "speed-up": _figure("speedup", _form(".2f"), mark=doubts.speedup_mark),
    "efficiency": _figure("efficiency", _form(".0%"), mark=doubts.speedup_mark),
    "step, ms": _figure("step_seconds_median", _form(".2f"), 1000),
    # Soft hyphens: a narrow column breaks the word there.
    "com\u00adputing, %": _share("computing"),
    "communi\u00adcating, %": _share("communicating"),
    "waiting, %": _share("waiting"),
    "validation metric": _figure("validation_metric", _form(".4g")),
    "test metric": _figure("test_metric", _form(".4g")),
    "training, s": _figure("train_seconds", _form(".2f")),
    "memory, MB": _megabytes("peak_rss_bytes_total"),
    "status": lambda row: Cell(row["status"] + (", busy" if row["disturbed"] else ""), order=row["status"]),
}
