"""Losses and metrics of any model: a tidy table, and one main metric where accuracy stands."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stratbench import results
from stratbench.errors import ResultsError
from stratbench.results import schema
from stratbench.results.analysis.comparison import compare
from stratbench.results.raw import quality
from stratbench.results.raw.record import Record
from stratbench.results.showing import terminal
from stratbench.results.tables.store import Store
from test_results_record import STARTED, make_log, make_record, make_spec

MAE = {"loss": 0.5, "mae": 0.25, "left/[red]\nmse": 2.0}


def log_with(*validations: dict[str, float], test: dict[str, float] | None = None) -> Any:
    log = make_log()
    log.evaluations = [
        {"epoch": epoch, "step": 2 * epoch, "time": STARTED + 16, "validation": found}
        for epoch, found in enumerate(validations, 1)
    ]
    log.evaluations[-1]["test"] = test or validations[-1]
    return log


def shown(runs: pd.DataFrame) -> str:
    stream = io.StringIO()
    terminal.render(runs, terminal.make_console(stream))
    return stream.getvalue()


def frame(*records: Record) -> pd.DataFrame:
    return pd.DataFrame([record.run for record in records])


def test_every_metric_of_every_evaluation_is_a_row(tmp_path: Path) -> None:
    other = MAE | {"mae": math.inf, "loss": math.nan}
    record = make_record(logs=[log_with(other, MAE, test={"loss": 7.0, "mae": 8.0})])
    with Store(tmp_path) as store:
        record.save(tmp_path / "record.json")
        store.add(Record.load(tmp_path / "record.json"))
    tables = results.load(tmp_path)
    found = tables.metrics
    assert list(found.columns) == ["run_id", "epoch", "step", "seconds", "split", "metric", "value"]
    assert found[found.split == "test"].value.tolist() == [7.0, 8.0]
    validation = found[found.split == "validation"].pivot(index="epoch", columns="metric", values="value")
    assert validation["mae"].tolist() == [math.inf, 0.25]
    # Names are one line in all tables.
    assert validation["left/[red] mse"].tolist() == [2.0, 2.0]
    assert math.isnan(validation["loss"][1]) and validation["loss"][2] == 0.5
    (run,) = tables.runs.to_dict("records")
    assert (run["metric"], run["validation_metric"], run["test_metric"]) == ("mae", 0.25, 8.0)
    assert (run["validation_loss"], run["test_loss"]) == (0.5, 7.0) and math.isnan(run["test_accuracy"])
    assert tables.epochs.validation_metric.tolist() == [math.inf, 0.25]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "run_id,epoch,step,seconds,split,metric,value"


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    name = "é" * 1000
    make_record(logs=[log_with({"loss": 1.0, name: 2.0})]).save(tmp_path / "record.json")
    record = Record.load(tmp_path / "record.json")
    assert record.run["metric"] == record.metrics[1]["metric"] and record.run["metric"].endswith("é…")
    assert len(record.run["metric"].encode()) <= 255 and record.run["test_metric"] == 2.0


def test_a_users_file_with_the_name_of_a_new_table_stays(tmp_path: Path) -> None:
    record, tables = make_record(), dict(schema.TABLES)
    try:
        del schema.TABLES["metrics"]
        with Store(tmp_path) as store:
            store.add(record)
    finally:
        # In their order.
        schema.TABLES.clear()
        schema.TABLES.update(tables)
    mine = tmp_path / "metrics.csv"
    assert not mine.exists()
    mine.write_text("day,value\n1,2\n")
    with pytest.raises(ResultsError, match=r"metrics\.csv is not stratbench's and would be replaced"):
        Store(tmp_path)
    mine.unlink()
    with Store(tmp_path) as store:
        store.add(make_record(make_spec(seed=2)))
    assert results.load(tmp_path).metrics.run_id.nunique() == 1


@pytest.mark.parametrize("name", ["accuracy", "acc", "sparse_categorical_accuracy", "binary_accuracy"])
def test_accuracy_is_a_column_whatever_its_name(name: str) -> None:
    run = make_record(logs=[log_with({"loss": 1.0, name: 0.75})]).run
    assert run["test_accuracy"] == run["test_metric"] == run["validation_accuracy"] == 0.75


@pytest.mark.parametrize("name", ["sparse_top_k_categorical_accuracy", "kind_accuracy", "precision"])
def test_another_metric_is_no_accuracy(name: str) -> None:
    run = make_record(logs=[log_with({"loss": 1.0, "kind_loss": 1.0, name: 0.75})]).run
    assert (run["metric"], run["test_metric"]) == (name, 0.75) and math.isnan(run["test_accuracy"])


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["loss"], "loss"),
        (["left_loss", "loss", "right_loss"], "loss"),
        (["d_loss", "g_loss"], "d_loss"),
        ([], ""),
        (["loss", "mae", "mse"], "mae"),
        (["loss", "auc", "accuracy"], "accuracy"),
    ],
)
def test_the_main_metric(names: list[str], main: str) -> None:
    assert quality.main_metric(names) == main


@pytest.mark.parametrize(
    ("metric", "heading", "cell", "caption"),
    [
        ("accuracy", "acc.", "0.1230", False),
        ("mae", "mae", "0.123", False),
        ("[red]x[/]", "[red]x[/]", "0.123", False),
        ("root_mean_squared_error", "metric", "0.123", True),
    ],
)
def test_the_table_names_the_main_metric(metric: str, heading: str, cell: str, caption: bool) -> None:
    text = shown(frame(make_record(logs=[log_with({"loss": 1.0, metric: 0.123})])))
    lines = [line.split() for line in text.splitlines()]
    # The second line of the headings.
    assert heading in lines[2] and f" {cell} " in text
    assert (f"metric: {metric}" in text.splitlines()) == caption


def test_runs_of_an_earlier_version_have_accuracy_as_their_metric(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    make_record().save(path)
    old = json.loads(path.read_text())
    del old["metrics"]
    for row in (old["run"], *old["epochs"]):
        for name in ("metric", "validation_metric", "test_metric"):
            row.pop(name, None)
    path.write_text(json.dumps(old))
    record = Record.load(path)
    assert record.metrics == [] and record.run["metric"] == ""
    (row,) = compare(frame(record)).to_dict("records")
    assert (row["metric"], row["validation_metric"], row["test_metric"]) == ("accuracy", 0.5, 0.4)
    assert " 0.4000 " in shown(frame(record)) and "acc." in shown(frame(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": [1]}, "value"),
        ({"metric": {"a": 1}}, "metric"),
        ({"metric": "x" * 256}, "metric must be at most 255 bytes long"),
        ({"epoch": 10**30}, "epoch"),
        ({"run_id": "another"}, "all rows must be of run"),
        ({"more": 1}, "a row of metrics has no column"),
    ],
)
def test_damaged_metrics_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    make_record().save(path)
    content = json.loads(path.read_text())
    content["metrics"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=message):
        Record.load(path)
