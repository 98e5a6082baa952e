"""--evaluate-every: when weights are kept, what the tables then say, and that training is not changed by it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import call
from conftest import make_spec
from stratbench import results
from stratbench.errors import UsageError
from stratbench.harness.plan import evaluations
from stratbench.results.analysis import evaluations as analysis
from stratbench.results.analysis import time_to_quality as times
from stratbench.results.analysis.comparison import compared
from stratbench.results.showing import targets, terminal
from stratbench.results.tables.reading import Tables


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


RUN = {
    "run_id": "a",
    "train_examples": 100.0,
    "global_batch": 10,
    "last_batch": "drop",
    "steps_done": 25,
    "examples_done": 500,
}
EPOCHS = pd.DataFrame(
    {"run_id": "a", "epoch": [0, 1, 2], "seconds": [1.0, 2.0, 1.0], "traffic_bytes_measured": [10.0, 10.0, 5.0]}
)


def points(**values: list[float]) -> dict[str, Any]:
    """Of one run among others."""
    runs = pd.DataFrame([RUN | {"run_id": "b"}, RUN])
    return analysis.of_runs(runs, pd.DataFrame(values).assign(run_id="a"), EPOCHS).to_dict("list")


def test_how_far_a_run_was() -> None:
    found = points(epoch=[2, 0, 1], step=[25, 5, 15], seconds=[4.0, 0.5, 2.5], value=[0.9, 0.1, 0.4])
    assert found["value"] == [0.1, 0.4, 0.9] and found["seconds"] == [0.5, 2.5, 4.0]
    assert found["epochs"] == [0.5, 1.5, 2.5] and found["examples"] == [100, 300, 500]
    assert found["traffic_bytes"] == [5.0, 15.0, 25.0]


def test_rows_of_older_versions_are_of_whole_epochs() -> None:
    nothing = [math.nan] * 3
    older = points(epoch=[0, 1, 2], step=nothing, seconds=nothing, value=[0.1, 0.4, 0.9])
    assert older == points(epoch=[0, 1, 2], step=[10, 20, 25], seconds=[1.0, 3.0, 4.0], value=[0.1, 0.4, 0.9])


WORK = "--model mlp --dataset synthetic:examples=500 --split 80/10/10 --global-batch 40 --steps 25 --optimizer momentum"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Epochs of ten steps, with evaluations after every four steps and without."""
    folder = str(tmp_path_factory.mktemp("evaluations") / "out")
    often = ["--evaluate-every", "4steps", "-s", "ps:sync=true", "-s", "mirrored", "-n", "2"]
    for more in ([], often):
        assert call("compare", "-s", "single", "-s", "fit", *more, *WORK.split(), "--output", folder) == 0
    return results.load(folder)


@pytest.mark.slow
def test_training_is_not_changed_by_it(tables: Tables) -> None:
    runs = tables.runs
    for _, pair in runs[runs["strategy"].isin(["single", "fit"])].groupby("strategy"):
        assert len(pair) == 2 and pair["final_weights"].nunique() == 1
    assert runs["first_update"].nunique() == 1 or runs["first_update"].std() < 1e-5 * runs["first_update"].mean()


@pytest.mark.slow
def test_each_evaluation_has_its_step_and_its_time(tables: Tables) -> None:
    runs = tables.runs.set_index("run_id")
    losses = tables.metrics[(tables.metrics["split"] == "validation") & (tables.metrics["metric"] == "loss")]
    for run, own in losses.groupby("run_id"):
        often = bool(runs.loc[run, "evaluate_every"])
        assert own["step"].tolist() == ([4, 8, 12, 16, 20, 24, 25] if often else [10, 20, 25])
        assert (np.diff(own["seconds"]) > 0).all()
        assert own["seconds"].iloc[-1] == pytest.approx(runs.loc[run, "train_seconds"])
        epochs = tables.epochs[tables.epochs["run_id"] == run]["validation_loss"]
        # Of the weights after an epoch's last step alone.
        assert epochs.isna().tolist() == ([True, False, False] if often else [False] * 3)


@pytest.mark.slow
def test_a_target_is_found_within_an_epoch(tables: Tables) -> None:
    often = tables.runs[tables.runs["evaluate_every"] != ""]["run_id"]
    losses = tables.metrics[(tables.metrics["metric"] == "loss") & tables.metrics["run_id"].isin(often)]
    value = losses[losses["step"] == 4]["value"].max()
    found = results.time_to_quality(tables, f"loss={value}").set_index("run_id").loc[often]
    assert found["reached"].all() and (found["epochs"] == 0.4).all() and (found["examples"] == 160).all()
    stream = io.StringIO()
    rows = [row for row in compared(tables.runs) if row["evaluate_every"]]
    target = times.parse(f"loss={value}")
    targets.render(times.of_rows(rows, times.of_runs(tables, target)), target, terminal.make_console(stream))
    assert "a metric is known: after every 4 steps" in stream.getvalue()
