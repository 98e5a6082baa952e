"""``steps_per_execution``: the same steps, several in one call."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from command_line import call
from stratbench import results
from stratbench.results.tables.reading import Tables

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")
# Ten steps of which the last are fewer than one call has, in two epochs, with another rate in each.
WORK = ["--model", "mlp", "--dataset", "synthetic:examples=500", "--split", "80/10/10", "--global-batch", "40"]
WORK += ["--epochs", "2", "--optimizer", "momentum", "--learning-rate", "0.05", "--lr-schedule", "cosine"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Each strategy, step by step and four steps in a call."""
    folder = str(tmp_path_factory.mktemp("together") / "out")
    chosen = [
        each for name in ("single", "mirrored", "multiworker") for each in ("-s", name, "-s", f"{name}:{TOGETHER}")
    ]
    assert call("compare", *chosen, "-n", "2", *WORK, "--output", folder) == 0
    return results.load(folder)


TOGETHER = "steps_per_execution=4"


def losses(tables: Tables, strategy: str, together: bool) -> pd.Series:
    """Of each step, the mean over the workers."""
    runs = tables.runs[(tables.runs.strategy == strategy) & (tables.runs.options.str.contains("steps_per") == together)]
    (name,) = runs.run_id
    return tables.steps[tables.steps.run_id == name].groupby("step").loss.mean()


@pytest.mark.parametrize("strategy", ["single", "mirrored", "multiworker"])
def test_losses_are_those_of_one_step_at_a_time(tables, strategy: str) -> None:
    base = losses(tables, "single", together=False)
    assert len(base) == 20
    np.testing.assert_allclose(losses(tables, strategy, together=True), base, rtol=1e-5)


def test_all_did_equal_work(tables) -> None:
    assert tables.runs.data_order.nunique() == 1 and tables.runs.initial_weights.nunique() == 1
    assert set(tables.runs.status) == {"ok"}


def test_the_steps_of_a_call_have_equal_times_and_the_first_call_is_warm_up(tables) -> None:
    chosen = tables.runs[(tables.runs.strategy == "single") & tables.runs.options.str.contains("steps_per")]
    steps = tables.steps[tables.steps.run_id == chosen.run_id.item()]
    calls = steps.groupby(["epoch", steps.step % 10 // 4]).step_seconds.nunique()
    assert (calls == 1).all() and len(calls) == 6
    assert steps.warmup.tolist() == [True] * 4 + [False] * 16
    assert (steps.computing_seconds > 0).all() and (steps.computing_seconds <= steps.step_seconds).all()
    exchanging = tables.runs[(tables.runs.replicas == 2) & tables.runs.options.str.contains("steps_per")]
    assert len(exchanging) == 2 and exchanging.computing_share.isna().all()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--accumulate", "2"], "leave it or --accumulate out"),
        (["--inject", "slow:worker=0,factor=2"], "leave --inject out"),
        (["--last-batch", "keep"], "use --last-batch drop"),
    ],
)
def test_what_can_not_be_is_skipped(flags: list[str], says: str) -> None:
    assert call("compare", "-s", f"single:{TOGETHER}", *WORK, *flags, "--output", "out") == 1
    (run,) = results.load("out").runs.to_dict("records")
    assert run["status"] == "skipped" and says in run["reason"]


@pytest.mark.parametrize("count", ["0", "10001", "many"])
def test_a_count_that_can_not_be(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "-s", f"single:steps_per_execution={count}", *WORK) == 2
    assert "steps_per_execution" in capsys.readouterr().err
