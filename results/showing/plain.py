"""Results for programs: strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..analysis.comparison import columns
from ..column import json_cell
from . import remarks, verdict
from .workloads import workloads


def to_json(frame: pd.DataFrame) -> str:
    """A table as a JSON list of objects, one key per column; NaN is null, an infinite loss is "inf"."""
    return dump([cells(row) for row in frame.to_dict("records")])


def row_to_json(run: Mapping[str, Any]) -> str:
    """One row of the runs table as a JSON object, as in `to_json`."""
    return dump(cells(run))


def answers_to_json(runs: pd.DataFrame) -> str:
    """What the report has, as a JSON list with an object for each workload.

    Each has ``title``, ``answer`` (sentences), ``notes``, and ``rows``: the columns of `comparison.compare`, with
    ``runs``, the names of the runs that a row rests on.
    """
    found = [
        {
            "title": workload.title,
            "answer": verdict.sentences(workload.rows),
            "notes": remarks.captions(workload.rows) + remarks.remarks(workload.rows),
            "rows": [
                cells({name: row[name] for name in columns()}) | {"runs": [run["run_id"] for run in row["ok_runs"]]}
                for row in workload.rows
            ],
        }
        for workload in workloads(runs)
    ]
    return dump(found)


def dump(value: Any) -> str:
    """Strict JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def cells(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row's cells as JSON has them."""
    return {str(name): json_cell(value) for name, value in row.items()}
