"""TensorBoard: scalars of steps and epochs, and the runs as trials of its HParams page.

A run is a folder. Its tasks are folders within, as TensorBoard draws those over one another that have a tag in common.
Times are those of the run: a step's is when it ended on the clock of training.
Source: https://www.tensorflow.org/tensorboard/hyperparameter_tuning_with_hparams
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from ._frames import ends, rows

if TYPE_CHECKING:
    import pandas as pd

    from ..tables.reading import Tables

_FILE = "events.out.tfevents.stratbench"
_ALWAYS = ("strategy", "replicas", "global_batch")
_HPARAMS = (
    *_ALWAYS,
    *("options", "model", "dataset", "sharding", "optimizer", "learning_rate", "lr_scaling", "warmup_epochs"),
    *("lr_schedule", "precision", "seed", "cores_per_replica", "inject", "repeat"),
)
_FIGURES = (
    *("examples_per_second", "step_seconds_median", "train_seconds", "startup_seconds", "test_metric", "test_loss"),
    *("computing_share", "communicating_share", "waiting_share", "input_share", "peak_rss_bytes_total"),
)
_EPOCHS = ("train_loss", "examples_per_second", "seconds", "consensus_distance", "traffic_bytes_measured")
_STEPS = (
    *("loss", "step_seconds", "input_seconds"),
    *("computing_seconds", "communicating_seconds", "waiting_seconds"),
)
_TOLD_EVERY = 10_000

Write = Callable[[float, int, Summary], None]
"""Of an event: Unix seconds, the step, values."""


def write(tables: Tables, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """``RUN_ID/`` and ``RUN_ID/TASK/`` with a file of events each, and one beside them that names the HParams."""
    # TensorBoard would show runs of an earlier export, too.
    for former in list(folder.rglob(_FILE)):
        former.unlink()
    with _events(folder / _FILE) as put:
        metrics = [summary_v2.Metric(f"runs/{name}", display_name=name) for name in _FIGURES]
        # The page shows the first ones: those that are equal in all runs would hide the others.
        differing = [name for name in _HPARAMS if name in _ALWAYS or tables.runs[name].nunique() > 1]
        put(0.0, 0, summary_v2.hparams_config_pb(list(map(summary_v2.HParam, differing)), metrics, 0.0))
    made = [folder / _FILE]
    by_run = {name: dict(list(getattr(tables, name).groupby("run_id"))) for name in ("epochs", "metrics", "steps")}
    nothing = tables.epochs[:0]
    for run in rows(tables.runs):
        name = str(run["run_id"])
        own = {table: found.get(name, nothing) for table, found in by_run.items()}
        made.append(folder / name / _FILE)
        with _events(made[-1]) as put:
            _put_run(put, run, own["epochs"], own["metrics"])
        for (role, task), steps in own["steps"].groupby(["role", "task"]) if len(own["steps"]) else ():
            made.append(folder / name / f"{role}-{task}" / _FILE)
            with _events(made[-1]) as put:
                _put_steps(put, _ready(run), steps, functools.partial(_tell_steps, tell, name))
    return made


@contextmanager
def _events(path: Path) -> Iterator[Write]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        yield lambda time, step, values: writer.write(
            Event(wall_time=time, step=step, summary=values).SerializeToString()
        )


def _tell_steps(tell: Callable[[str], None], name: str, count: int) -> None:
    tell(f"{name}, {count:,} steps")


def _put_run(put: Write, run: Mapping[str, Any], epochs: pd.DataFrame, metrics: pd.DataFrame) -> None:
    begin = datetime.fromisoformat(run["started_at"]).timestamp()
    end = begin + run["total_seconds"]
    hparams = {name: run[name] for name in _HPARAMS}
    put(begin, 0, summary_v2.hparams_pb(hparams, trial_id=str(run["run_id"]), start_time_secs=begin))
    each = rows(epochs)
    ended = {row["epoch"]: now for row, now in zip(each, ends(each, _ready(run)), strict=True)}
    for row in each:
        put(ended[row["epoch"]], row["epoch"], _scalars({f"epochs/{name}": row[name] for name in _EPOCHS}))
    for row in rows(metrics):
        tag = f"metrics/{row['split']}/{row['metric']}"
        now = ended.get(row["epoch"], end) if math.isnan(row["seconds"]) else _ready(run) + row["seconds"]
        put(now, row["epoch"] if math.isnan(row["step"]) else int(row["step"]), _scalars({tag: row["value"]}))
    put(end, 0, _scalars({f"runs/{name}": run[name] for name in _FIGURES}))
    status = api_pb2.STATUS_SUCCESS if run["status"] == "ok" else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=end)
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    put(end, 0, Summary(value=[value]))


def _put_steps(put: Write, begin: float, steps: pd.DataFrame, tell: Callable[[int], None]) -> None:
    times = begin + np.cumsum(steps["step_seconds"].to_numpy())
    columns = [steps[name].tolist() for name in _STEPS]
    tags = [f"steps/{name}" for name in _STEPS]
    for count, (now, step, values) in enumerate(
        zip(times.tolist(), steps["step"].tolist(), zip(*columns, strict=True), strict=True)
    ):
        put(now, step, _scalars(dict(zip(tags, values, strict=True))))
        if count % _TOLD_EVERY == 0:
            tell(count)


def _ready(run: Mapping[str, Any]) -> float:
    """Unix seconds when training began."""
    startup = run["startup_seconds"]
    return datetime.fromisoformat(run["started_at"]).timestamp() + (0.0 if math.isnan(startup) else startup)


def _scalars(values: Mapping[str, float]) -> Summary:
    """Those that are known."""
    known = {tag: value for tag, value in values.items() if not math.isnan(value)}
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])
