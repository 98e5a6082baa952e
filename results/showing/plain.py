"""Results for programs: strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from .. import schema
from ..analysis.comparison import columns
from . import remarks, verdict
from .workloads import workloads


def to_json(runs: pd.DataFrame) -> str:
    """The runs table as a JSON list of objects, one key per column; NaN is null, an infinite loss is "inf"."""
    return frame_to_json(runs)


def frame_to_json(frame: pd.DataFrame) -> str:
    """Any table as a JSON list of objects, as in `to_json`."""
    return json.dumps([_plain(row) for row in frame.to_dict("records")], indent=2, ensure_ascii=False, allow_nan=False)


def row_to_json(run: Mapping[str, Any]) -> str:
    """One row of the runs table as a JSON object, as in `to_json`."""
    return json.dumps(_plain(run), indent=2, ensure_ascii=False, allow_nan=False)


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
                _plain({name: row[name] for name in columns()}) | {"runs": [run["run_id"] for run in row["ok_runs"]]}
                for row in workload.rows
            ],
        }
        for workload in workloads(runs)
    ]
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): schema.plain(value) for name, value in row.items()}
