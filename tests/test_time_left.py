"""How long runs take: as told before a plan starts, and after each run of any command."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console
from stratbench import results
from stratbench.harness.cli.progress import RunProgress
from stratbench.harness.cli.time_left import TimeLeft, words
from stratbench.harness.launch import estimating
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.spec import RunSpec
from stratbench.results.raw.record import without_repeat

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

PLAN = """
strategy = ["single", "mirrored"]
model = "mlp"
dataset = "synthetic"
global-batch = 32
steps = 12
output = "out"
"""


def specs(*strategies: str, repeats: int = 1, **changes: Any) -> list[RunSpec]:
    work = {"dataset": "synthetic", "global_batch": 32, "steps": 100} | changes
    return Experiment(strategies=strategies, repeats=repeats, **work).expand()


class TestTimeLeft:
    def test_nothing_is_known_before_the_first_run(self) -> None:
        assert TimeLeft(specs("single", "mirrored"), {}).seconds() is None

    def test_a_repeat_takes_as_long_as_the_run_before(self) -> None:
        runs = specs("single", "mirrored", repeats=2)
        left = TimeLeft(runs, {})
        for run in runs[:2]:
            left.ended(run, 10.0 if run.strategy == "single" else 4.0)
        assert left.seconds() == pytest.approx(14.0)

    def test_others_take_as_long_as_those_that_ended(self) -> None:
        runs = specs("single", "mirrored", "one-device")
        left = TimeLeft(runs, {})
        left.ended(runs[0], 6.0)
        assert left.seconds() == pytest.approx(12.0)

    def test_estimates_are_mended_by_what_runs_took(self) -> None:
        runs = specs("single", "mirrored")
        left = TimeLeft(runs, {without_repeat(run.run_id): 10.0 for run in runs})
        assert left.seconds() == pytest.approx(20.0)
        left.ended(runs[0], 15.0)
        assert left.seconds() == pytest.approx(15.0)

    def test_after_the_last_run_nothing_is_left(self) -> None:
        (run,) = specs("single")
        left = TimeLeft([run], {})
        left.ended(run, 3.0)
        assert left.seconds() == 0

    @given(some.floats(0, 1e7))
    def test_words_round_to_what_a_reader_needs(self, seconds: float) -> None:
        number, unit = words(seconds).split()
        told = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
        assert told == pytest.approx(seconds, rel=0.34, abs=1.01)


class TestEstimate:
    def row(self, **changes: Any) -> dict[str, Any]:
        sizes = {"train_examples": 640.0, "validation_examples": 100.0, "test_examples": 260.0}
        times = {"total_seconds": 5.0, "train_seconds": 2.0, "evaluation_seconds": 1.0}
        return sizes | times | {"status": "ok", "step_seconds_median": 0.1, "first_step_seconds": 1.5} | changes

    def test_steps_evaluations_and_what_is_around_them_add_up(self) -> None:
        (run,) = specs("single", steps=None, epochs=3)
        # 20 steps an epoch; two epochs are evaluated on the 100 validation examples, the last one on all.
        assert estimating.seconds(run, self.row()) == pytest.approx(2.0 + 1.5 + 6.0 + 1.0 + 0.2)

    def test_steps_count_as_given(self) -> None:
        (run,) = specs("single", steps=50)
        assert estimating.seconds(run, self.row()) == pytest.approx(2.0 + 1.5 + 5.0 + 1.0 + 0.2)

    def test_what_does_not_run_takes_no_time(self) -> None:
        (run,) = specs("single")
        assert estimating.seconds(run, self.row(status="skipped", train_examples=math.nan)) == 0

    def test_a_run_that_is_all_warm_up_has_no_step_to_tell(self) -> None:
        (run,) = specs("single", steps=2)
        assert estimating.seconds(run, self.row(step_seconds_median=math.nan)) == pytest.approx(2.0 + 1.5 + 1.0)

    def test_a_short_run_has_a_whole_call_of_warm_up(self) -> None:
        assert estimating.short(specs("single:steps_per_execution=20")[0]).steps == 30

    def test_a_short_run_is_the_same_work_without_faults(self) -> None:
        (run,) = specs("single", inject=["slow:worker=0,seconds=9"], profile=5, repeats=1, epochs=4, steps=None)
        short = estimating.short(run)
        assert (short.steps, short.epochs, short.inject, short.profile) == (12, None, (), 0)
        assert (short.model, short.global_batch, short.seed) == (run.model, run.global_batch, run.seed)
        assert estimating.short(specs("single", steps=3)[0]).steps == 3


def test_a_plan_tells_its_time_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.toml").write_text(PLAN + "repeats = 2\n")
    assert call("compare", "plan.toml") == 0
    error = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"stratbench: 4 runs, about \d+ s, until \d\d:\d\d", error[0]), error
    assert re.search(r"about \d+ s left$", error[1]) and "left" not in error[-1]
    runs = results.load("out").runs
    assert len(runs) == 4 and set(runs.steps) == {12.0}
    # The short ones are in no table.
    assert sorted(path.name for path in Path("out/runs").iterdir()) == sorted(runs.run_id)


def test_flags_come_before_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.toml").write_text(PLAN)
    # All of them are warm-up.
    chosen = ("compare", "plan.toml", "-s", "single", "--steps", "2")
    assert call(*chosen) == 0
    runs = results.load("out").runs
    assert set(runs.strategy) == {"single"} and set(runs.steps) == {2.0}
    assert re.match(
        r"stratbench: 1 run, about \d+ s, until \d\d:\d\d\n.*: ok, too few steps for a rate", capsys.readouterr().err
    )
    assert call(*chosen) == 0
    error = capsys.readouterr().err
    assert "1 of 1 runs are ok already" in error and "about" not in error


def test_rows_that_can_not_run_are_told_before() -> None:
    Path("plan.toml").write_text(PLAN.replace('"mirrored"', '"tpu"').replace("steps = 12", "steps = 3"))
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        patch.setattr(sys, "stderr", stream)
        assert call("compare", "plan.toml") == 0
    assert "1 of 2 rows can't run here, or fail" in stream.getvalue()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan.toml", "--spec", "plan.toml"], "give one file with flags"),
        (["missing.toml"], "No such file"),
        ([".", "-s", "single"], "Is a directory"),
    ],
)
def test_a_plan_that_can_not_be(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.toml").write_text(PLAN)
    assert call("compare", *arguments) == 2
    assert says in capsys.readouterr().err


def test_ctrl_c_while_estimating_leaves_nothing(tmp_path: Path) -> None:
    Path("plan.toml").write_text(PLAN.replace("steps = 12", "steps = 100000"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "stratbench.harness.cli", "compare", "plan.toml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(temporary)}) as process:
        until = time.monotonic() + 60
        while not list(temporary.glob("stratbench-*/runs/*/*.jsonl")):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert not list(temporary.glob("stratbench-*"))
    assert not list(Path("out/runs").glob("*")) if Path("out/runs").exists() else True


def test_progress_shows_the_loss_of_the_last_step() -> None:
    (run,) = specs("single")
    progress = RunProgress(Console(file=io.StringIO()), [run], {})
    with progress:
        listen = progress.begin(run)
        row = [0, 7, 0.1, 0.01, 32, 1.25, False, 0.08, 0.0, 0.0, 9.0]
        listen("worker-0", {"event": "steps", "rows": [row]})
        (task,) = progress._progress.tasks
        assert (task.completed, task.fields["note"]) == (8, "loss 1.2500")
