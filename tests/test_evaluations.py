"""--evaluate-every: when weights are kept, what the tables then say, and that training is not changed by it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import make_spec
from stratbench import results
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.harness.plan import evaluations
from stratbench.results.analysis import evaluations as analysis


@pytest.mark.parametrize(
    ("text", "due", "number", "said"),
    [
        ("1epoch", [10, 20], 3, "1epoch"),
        ("2epochs", [20], 2, "2epochs"),
        ("1 epochs", [10, 20], 3, "1epoch"),
        ("8steps", [8, 16, 24], 4, "8steps"),
        ("40step", [], 1, "40steps"),
    ],
)
def test_when_weights_are_evaluated(text: str, due: list[int], number: int, said: str) -> None:
    found = evaluations.parse(text)
    assert [done for done in range(1, 25) if found.due(done, steps_per_epoch=10)] == due
    assert found.number(total_steps=25, steps_per_epoch=10) == number and str(found) == said


@pytest.mark.parametrize("text", ["", "100", "0steps", "-1steps", "1.5epochs", "2 weeks", "٣steps", "9" * 21 + "steps"])
def test_what_is_no_schedule_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--evaluate-every must be a number of steps or epochs, such as 500steps"):
        make_spec(evaluate_every=text)


def test_by_default_a_run_keeps_its_name() -> None:
    assert make_spec(evaluate_every="1epoch").run_id == make_spec().run_id != make_spec(evaluate_every="5steps").run_id


def test_several_steps_of_a_call_have_no_weights_between() -> None:
    spec = make_spec("single:steps_per_execution=4", evaluate_every="8steps")
    assert "use --evaluate-every with epochs" in str(spec.skip())
    assert make_spec("single:steps_per_execution=4", evaluate_every="2epochs").skip() is None


RUN = {"train_examples": 100.0, "global_batch": 10, "last_batch": "drop", "steps_done": 25, "examples_done": 500}
EPOCHS = pd.DataFrame({"epoch": [0, 1, 2], "seconds": [1.0, 2.0, 1.0], "traffic_bytes_measured": [10.0, 10.0, 5.0]})


def points(**values: list[float]) -> dict[str, Any]:
    return analysis.of_run(RUN, pd.DataFrame(values), EPOCHS).to_dict("list")


def test_how_far_a_run_was() -> None:
    found = points(epoch=[2, 0, 1], step=[25, 5, 15], seconds=[4.0, 0.5, 2.5], value=[0.9, 0.1, 0.4])
    assert found["value"] == [0.1, 0.4, 0.9] and found["seconds"] == [0.5, 2.5, 4.0]
    assert found["epochs"] == [0.5, 1.5, 2.5] and found["examples"] == [100, 300, 500]
    assert found["traffic_bytes"] == [5.0, 15.0, 25.0]


def test_rows_of_older_versions_are_of_whole_epochs() -> None:
    nothing = [math.nan] * 3
    older = points(epoch=[0, 1, 2], step=nothing, seconds=nothing, value=[0.1, 0.4, 0.9])
    assert older == points(epoch=[0, 1, 2], step=[10, 20, 25], seconds=[1.0, 3.0, 4.0], value=[0.1, 0.4, 0.9])


@pytest.mark.slow
def test_training_is_the_same_and_the_target_is_found_within_an_epoch(tmp_path: Path) -> None:
    flags = "-s single -s fit -s horovod -s ps:sync=true -n 2 --model mlp --dataset mnist-12k --global-batch 128"
    work = [*flags.split(), "--steps", "100", "--output", str(tmp_path)]
    for every in ("1epoch", "15steps"):
        called = CliRunner().invoke(cli, ["compare", *work, "--evaluate-every", every])
        assert called.exit_code == 0, called.output
    assert "evaluated every 15 steps" in called.stdout
    tables = results.load(tmp_path)
    runs = tables.runs.set_index("run_id")
    for _, pair in tables.runs[tables.runs["strategy"] != "ps"].groupby("strategy"):
        assert pair["final_weights"].nunique() == 1
    metrics = tables.metrics[(tables.metrics["split"] == "validation") & (tables.metrics["metric"] == "accuracy")]
    for run, own in metrics.groupby("run_id"):
        often = bool(runs.loc[run, "evaluate_every"])
        assert own["step"].tolist() == ([15, 30, 45, 60, 75, 90, 100] if often else [70, 100])
        assert (np.diff(own["seconds"]) > 0).all()
        assert own["seconds"].iloc[-1] == pytest.approx(runs.loc[run, "train_seconds"])
    # Of weights after the last step of an epoch alone.
    often = runs.index[runs["evaluate_every"] != ""]
    validation = tables.epochs[tables.epochs["run_id"].isin(often)]["validation_metric"]
    assert validation.isna().tolist() == [True, False] * 4

    value = 0.5 * (metrics["value"].min() + metrics["value"].max())
    found = results.time_to_quality(tables, f"accuracy={value}").set_index("run_id")
    assert (found.loc[often, "epochs"] < 1).all() and found["reached"].all()
    shown = CliRunner().invoke(cli, ["show", str(tmp_path), "--target", f"accuracy={value:.4f}"])
    assert "a metric is known: after every 15 steps" in " ".join(shown.stdout.split()), shown.stdout
