"""``--profile``: what is recorded, which steps rates leave out, and what is refused."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from stratbench import results
from stratbench.harness.plan import bounds
from stratbench.harness.plan.bounds import WARMUP_STEPS
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.worker.profiling import Profiler
from stratbench.harness.worker.train import train
from stratbench.results.raw import journal
from test_train import Clock, FakeBatches, FakeTrainer

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")
WORK = ["--model", "mlp", "--dataset", "synthetic", "--global-batch", "32"]


class Notes:
    """A recorder that writes down when it was started and stopped."""

    def __init__(self, trainer: FakeTrainer) -> None:
        self._trainer, self.moments = trainer, list[tuple[str, int]]()

    def start(self, folder: Path) -> None:
        assert folder.is_dir()
        self.moments.append(("start", len(self._trainer.rates)))

    def stop(self) -> None:
        self.moments.append(("stop", len(self._trainer.rates)))


def trained(tmp_path: Path, steps: int, total: int) -> tuple[list[tuple[str, int]], list[bool]]:
    """When the recorder was started and stopped, in steps; and which steps rates leave out."""
    clock = Clock()
    trainer = FakeTrainer(clock, [0.5] * total)
    notes = Notes(trainer)
    profiler = Profiler(steps, tmp_path / "profile", [notes])
    path = tmp_path / "worker-0.jsonl"
    with closing(journal.Journal(path)) as log:
        train(trainer, FakeBatches(clock), lambda step: 0.1, total, log, tmp_path, clock, profiler=profiler)  # type: ignore[arg-type]
    profiler.stop()
    return notes.moments, journal.read(path).steps["warmup"].tolist()


def test_steps_after_the_warm_up_are_recorded_and_left_out(tmp_path: Path) -> None:
    moments, warmup = trained(tmp_path, 3, 9)
    assert moments == [("start", WARMUP_STEPS), ("stop", WARMUP_STEPS + 3)]
    # The step that begins while records are written is left out as well.
    assert warmup == [True] * (WARMUP_STEPS + 3 + 1) + [False] * 3


def test_a_training_that_ends_before_stops_it(tmp_path: Path) -> None:
    assert trained(tmp_path, 5, 4)[0] == [("start", WARMUP_STEPS), ("stop", 4)]


def test_each_worker_has_a_profile_and_rank_0_horovods_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-s", "horovod", "-s", "ps", "-n", "2", *WORK, "--steps", "9", "--profile", "3", "--output", "out"]
    assert call("compare", *flags) == 0
    printed = capsys.readouterr().out
    assert "3 steps profiled" in printed and "tensorboard --logdir out/runs" in printed
    tables = results.load("out")
    for run in tables.runs.to_dict("records"):
        folder = Path("out") / run["profiles"]
        assert sorted(path.name for path in folder.iterdir()) == ["worker-0", "worker-1"]
        for worker in folder.iterdir():
            (found,) = worker.glob("plugins/profile/*/*.xplane.pb")
            assert b"MatMul" in found.read_bytes()
        own = tables.steps[tables.steps.run_id == run["run_id"]]
        assert own.groupby("task").warmup.sum().tolist() == [WARMUP_STEPS + 3 + 1] * 2
        assert math.isfinite(run["examples_per_second"])
    (timeline,) = Path("out").glob("runs/horovod*/profile/worker-0/horovod-timeline.json")
    names = {event.get("name") for event in json.loads(timeline.read_text())}
    assert any("ALLREDUCE" in str(name) for name in names), names


@pytest.mark.parametrize(("steps", "together", "expected"), [(0, 4, 0), (3, 1, 4), (3, 4, 8), (4, 4, 8), (5, 4, 12)])
def test_whole_calls_are_left_out(steps: int, together: int, expected: int) -> None:
    assert bounds.left_out(steps, together) == expected


def test_without_the_flag_nothing_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "-s", "single", *WORK, "--steps", "4", "--output", "out") == 0
    (run,) = results.load("out").runs.to_dict("records")
    assert run["profiles"] == "" and run["profile"] == 0
    assert not list(Path("out").glob("runs/*/profile"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--profile", "5", "--steps", "8"], "--profile must leave steps to measure"),
        (["--profile", "5", "--steps", "12", "--accumulate", "3"], "beside those and 7 for warm-up"),
        (["-o", "steps_per_execution=8", "--profile", "3", "--steps", "24"], "beside those and 21 for warm-up"),
        (["--profile", "0", "--steps", "8"], "--profile must be greater than 0"),
        (["--profile", "1001", "--steps", "2000"], "--profile must be at most 1000"),
        (["--profile", "some"], "is not a valid integer"),
    ],
)
def test_what_can_not_be_is_refused(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "-s", "single", *WORK, *flags) == 2
    assert says in capsys.readouterr().err


def test_a_profile_makes_another_run(planned: list[RunSpec]) -> None:
    for flags in ([], ["--profile", "2"]):
        assert call("compare", "-s", "single", *WORK, "--steps", "8", *flags) == 0
    plain, profiled = planned
    assert plain.run_id != profiled.run_id
    older = {key: value for key, value in plain.model_dump().items() if key != "profile"}
    assert RunSpec(**older).run_id == plain.run_id


def test_profiled_steps_are_no_part_of_the_rate(tmp_path: Path) -> None:
    """They take as long as others here, so only their number can tell."""
    clock = Clock()
    path = tmp_path / "worker-0.jsonl"
    with closing(journal.Journal(path)) as log:
        trainer = FakeTrainer(clock, [0.5] * 8)
        train(
            trainer, FakeBatches(clock), lambda step: 0.1, 8, log, tmp_path, clock, profiler=Profiler(2, tmp_path, [])
        )  # type: ignore[arg-type]
    steps = journal.read(path).steps
    assert np.flatnonzero(~steps["warmup"]).tolist() == [5, 6, 7]
