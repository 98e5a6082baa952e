"""Figures of a comparison as pandas tables, for notebooks and scripts."""

from __future__ import annotations

import pandas as pd

from ..tables.reading import Tables
from . import time_to_quality as quality
from .comparison import compare
from .split import MEASURED, REST

_WHO = ["strategy", "options", "replicas", "global_batch", "model", "dataset"]


def relative(tables: Tables, name: str) -> pd.DataFrame:
    """``speedup`` or ``efficiency`` of every row that has a base, with the ends of its 95 % interval."""
    rows = compare(tables.runs)
    found = rows[[*_WHO, "ok", "base", "scaling", name, f"{name}_low", f"{name}_high"]]
    return found[found[name].notna()].rename(columns={"ok": "runs"}).reset_index(drop=True)


def time_to_quality(tables: Tables, target: str) -> pd.DataFrame:
    """One row for each ok run: who it is, and what `time_to_quality.of_runs` says of it."""
    who = tables.runs[["run_id", *_WHO, "repeat"]]
    return who.merge(quality.of_runs(tables, quality.parse(target)), on="run_id")


def split(tables: Tables) -> pd.DataFrame:
    """One row for each task that took steps: mean seconds of a measured step, and of each part of it."""
    parts = [f"{part}_seconds" for part in MEASURED]
    steps = tables.steps[~tables.steps["warmup"]]
    means = steps.groupby(["run_id", "role", "task"], sort=False)[["step_seconds", *parts]].mean().reset_index()
    means[f"{REST}_seconds"] = (means["step_seconds"] - means[parts].sum(axis=1, skipna=False)).clip(lower=0.0)
    return tables.runs[["run_id", *_WHO, "repeat"]].merge(means, on="run_id")
