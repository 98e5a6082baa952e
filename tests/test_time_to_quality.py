"""Time to a target: what counts as reached, what as kept, and what is not known."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from result_rows import run
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.results import schema
from stratbench.results.analysis import time_to_quality as times
from stratbench.results.analysis.comparison import compared
from stratbench.results.showing import targets, terminal
from stratbench.results.tables.reading import Tables


def tables(curves: dict[tuple[str, int], list[list[float]]], metric: str = "accuracy", seconds: float = 2.0) -> Tables:
    """Runs, each with one value of the metric for each epoch; ``mirrored`` takes half the seconds of an epoch."""
    runs, epochs, metrics = [], [], []
    for (name, replicas), repeats in curves.items():
        for repeat, values in enumerate(repeats):
            row = run(name, replicas, 100 * replicas, repeat=repeat) | {
                "examples_done": 100 * len(values),
                "steps_done": len(values),
            }
            runs.append(row)
            for epoch, value in enumerate(values):
                took = seconds / (2 if name == "mirrored" else 1) * (1 + 0.01 * repeat)
                epochs.append(
                    {"run_id": row["run_id"], "epoch": epoch, "seconds": took, "traffic_bytes_measured": 10.0}
                )
                metrics.append(
                    {"run_id": row["run_id"], "epoch": epoch, "split": "validation", "metric": metric, "value": value}
                )
    made: dict[str, list[dict[str, Any]]] = {"epochs": epochs, "metrics": metrics}
    frames = {
        table: pd.DataFrame(schema.columns(table, [schema.row(table, row) for row in made.get(table, [])]))
        for table in schema.TABLES
        if table != "runs"
    }
    return Tables(runs=pd.DataFrame(runs), **frames)


def of(known: Tables, target: str) -> list[times.Reached]:
    return times.of_rows(compared(known.runs), times.of_runs(known, times.parse(target)))


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.5, 0.9, 0.95], {"reached": True, "kept": True, "epochs": 2, "seconds": 4.0, "kept_seconds": 4.0}),
        ([0.9, 0.5, 0.95], {"reached": True, "kept": True, "epochs": 1, "seconds": 2.0, "kept_seconds": 6.0}),
        ([0.9, 0.95, 0.5], {"reached": True, "kept": False, "epochs": 1, "seconds": 2.0, "kept_seconds": math.nan}),
        ([0.5, 0.6, math.nan], {"reached": False, "kept": False, "epochs": math.nan, "seconds": math.nan}),
        ([math.nan, 0.9, 0.9], {"reached": True, "kept": True, "epochs": 2, "seconds": 4.0, "kept_seconds": 4.0}),
    ],
)
def test_when_a_run_reaches_it_and_keeps_it(values: list[float], expected: dict[str, Any]) -> None:
    (found,) = times.of_runs(tables({("single", 1): [values]}), times.parse("accuracy=0.9")).to_dict("records")
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    if expected["reached"]:
        assert found["examples"] == 100 * expected["epochs"] and found["traffic_bytes"] == 10 * expected["epochs"]


@pytest.mark.parametrize(
    "metric, at_least",
    [
        ("accuracy", True),
        ("auc", True),
        ("loss", False),
        ("perplexity", False),
        ("mean_squared_error", False),
        ("mae", False),
        ("sparse_categorical_crossentropy", False),
        ("kl_divergence", False),
        ("output_loss", False),
        ("precision", True),
    ],
)
def test_of_losses_and_errors_less_is_better(metric: str, at_least: bool) -> None:
    target = times.parse(f"{metric}=0.5")
    assert target.at_least is at_least and str(target) == f"{metric} {'≥' if at_least else '≤'} 0.5"
    (found,) = of(tables({("single", 1): [[0.9, 0.4]]}, metric), f"{metric}=0.5")
    assert found.epochs == (1 if at_least else 2)


@pytest.mark.parametrize("text", ["", "accuracy", "=0.5", "accuracy=", "accuracy=nan", "accuracy=inf", "0.5"])
def test_a_target_is_a_metric_and_a_value(text: str) -> None:
    with pytest.raises(UsageError, match="--target must be METRIC=VALUE"):
        times.parse(text)


def test_a_metric_that_the_runs_do_not_have_is_told() -> None:
    with pytest.raises(UsageError, match=r"must name a metric of the validation examples: accuracy\. Received: 'auc'"):
        times.of_runs(tables({("single", 1): [[0.5]]}), times.parse("auc=0.5"))


def test_the_speed_up_is_of_the_time_to_the_target() -> None:
    curve = [0.5, 0.7, 0.9]
    single, mirrored = of(tables({("single", 1): [curve] * 3, ("mirrored", 2): [curve] * 3}), "accuracy=0.7")
    assert (single.reached, single.runs, single.kept, single.epochs, single.examples) == (3, 3, 3, 2.0, 200.0)
    assert single.seconds.value == pytest.approx(4.04, abs=1e-3) and single.seconds.known
    assert mirrored.speedup.value == pytest.approx(2.0) and mirrored.speedup.known
    assert not single.speedup.known


def test_a_run_that_never_reaches_it_leaves_no_interval() -> None:
    good, bad = [0.5, 0.9], [0.5, 0.6]
    _, mirrored = of(tables({("single", 1): [good] * 3, ("mirrored", 2): [good, bad, good]}), "accuracy=0.9")
    assert (mirrored.reached, mirrored.runs) == (2, 3) and not mirrored.seconds.known
    assert math.isnan(mirrored.speedup.value)
    stream = io.StringIO()
    target = times.parse("accuracy=0.9")
    mirrored.row["named_by_batch"] = True
    targets.render([mirrored], target, terminal.make_console(stream))
    assert f"mirrored at batch {mirrored.row['global_batch']}" in " ".join(stream.getvalue().split())
    output = stream.getvalue()
    assert "Time to accuracy ≥ 0.9 on the validation examples" in output
    assert "2 of 3" in output and ">2.02" in output and "the mean of the others is too short" in output


class TestCommand:
    @pytest.fixture(autouse=True)
    def results(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = tables({("single", 1): [[0.5, 0.9]], ("mirrored", 2): [[0.5, 0.6]]})
        monkeypatch.setattr("stratbench.results.load", lambda path: known)
        monkeypatch.setattr("stratbench.results.tables.reading.load_runs", lambda path: known.runs)

    def test_prints_the_times_below_the_table(self) -> None:
        result = CliRunner().invoke(cli, ["show", "out", "--target", "accuracy=0.9"], standalone_mode=False)
        assert result.exception is None, result.exception
        lines = [line.split() for line in result.output.splitlines()]
        assert ["single", "1", "1", "of", "1", "1", "2.0", "200", "4.00", "1.00"] in lines
        assert ["mirrored", "2", "0", "of", "1", "0", "–", "–", "–", "–"] in lines

    def test_json_has_each_run(self) -> None:
        result = CliRunner().invoke(cli, ["show", "out", "--target", "accuracy=0.9", "--json"], standalone_mode=False)
        first, second = json.loads(result.output, parse_constant=pytest.fail)
        assert first["reached"] is True and first["seconds"] == 4.0
        assert second["reached"] is False and second["seconds"] is None

    def test_a_bad_one_is_one_line(self) -> None:
        result = CliRunner().invoke(cli, ["show", "out", "--target", "x"], standalone_mode=False)
        assert isinstance(result.exception, UsageError)
