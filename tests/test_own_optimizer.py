"""A user's model chooses the optimizer, unless the command line does: what the commands plan and say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import call
from stratbench.harness.cli import commands as cli
from stratbench.harness.cli import grid, session
from stratbench.harness.launch import trying
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.plan.task import current_job

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


class TestOwnOptimizer:
    """A user's model chooses the optimizer, unless the command line does."""

    WORK = ("--model", "users:model", "--dataset", "synthetic:classes=10", "--global-batch", "8", "--steps", "3")

    @pytest.fixture(autouse=True)
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = {"optimizer": "adamw:weight_decay=0.02", "learning_rate": 0.25}
        self.answer = {"unused": "optimizer AdamW; jit", "unused_by_own": "jit", **own}
        monkeypatch.setattr(trying, "ask", lambda *_: self.answer)

    @pytest.mark.parametrize(("strategy", "skipped"), [("mirrored", True), ("horovod", False)])
    def test_one_and_the_same_model(
        self, strategy: str, skipped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.answer |= {"same": True}
        reasons: list[str] = []

        def record(
            wanted: list[RunSpec], output: Path, starter: Any, why_not: Any, *others: Any
        ) -> tuple[list[Any], int]:
            reasons.extend(map(why_not, wanted))
            return [], 0

        monkeypatch.setattr(session, "run_specs", record)
        monkeypatch.setattr(cli, "_print_folder", lambda *_: None)
        assert call("compare", "-s", strategy, "-n", "2", *self.WORK) == 0
        assert ["make the model within the function" in reason for reason in reasons] == [skipped]

    def test_by_default(self, planned: list[RunSpec], capsys: pytest.CaptureFixture[str]) -> None:
        assert call("compare", "-s", "mirrored", "-s", "ps", "-n", "1,2", *self.WORK) == 0
        assert {(spec.optimizer, spec.learning_rate) for spec in planned} == {("adamw:weight_decay=0.02", 0.25)}
        assert len(planned) == 4
        own, unused = capsys.readouterr().err.splitlines()
        assert own.endswith(
            "model users:model is trained by its own optimizer, adamw:weight_decay=0.02, learning rate 0.25"
        )
        assert unused.endswith("not used of model users:model: jit")

    def test_a_strategy_with_an_optimizer_of_its_own_says_so(
        self, planned: list[RunSpec], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("compare", "-s", "sandblaster", "-s", "mirrored", *self.WORK, "--lr-schedule", "cosine") == 0
        lbfgs, other = planned
        assert (lbfgs.optimizer, lbfgs.learning_rate, lbfgs.lr_schedule) == ("own: L-BFGS, history 10", 1.0, "constant")
        assert (other.optimizer, other.learning_rate) == ("adamw:weight_decay=0.02", 0.25)
        assert other.lr_schedule == "cosine"
        said = capsys.readouterr().err.splitlines()
        assert "sandblaster trains by L-BFGS, history 10, whatever --optimizer" in said[0]
        assert "model users:model is trained by its own optimizer" in said[1]

    def test_flags_win(self, planned: list[RunSpec], capsys: pytest.CaptureFixture[str]) -> None:
        assert call("run", "-s", "mirrored", *self.WORK, "--learning-rate", "0.5") == 0
        assert call("run", "-s", "mirrored", *self.WORK, "--optimizer", "adam") == 0
        assert [(spec.optimizer, spec.learning_rate) for spec in planned] == [
            ("adamw:weight_decay=0.02", 0.5),
            ("adam", 0.001),
        ]
        assert "not used of model users:model: optimizer AdamW; jit" in capsys.readouterr().err.splitlines()[-1]

    def test_one_that_is_not_supported_must_be_replaced(self, planned: list[RunSpec], refused: Any) -> None:
        self.answer = {"problem": "It can't be used."}
        assert refused("run", "-s", "mirrored", *self.WORK).endswith(
            "can't be used. Choose another one by --optimizer.\n"
        )
        assert call("run", "-s", "mirrored", *self.WORK, "--optimizer", "adam") == 0

    @pytest.mark.parametrize(("rank", "lines"), [(0, 2), (1, 0)])
    def test_all_processes_of_a_job_know_it(
        self, rank: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in {"RANK": rank, "SIZE": 2, "LOCAL_RANK": rank, "LOCAL_SIZE": 2}.items():
            monkeypatch.setenv(f"HOROVOD_{name}", str(value))
        job = current_job()
        work = {"model": "users:model", "dataset": "synthetic:classes=10", "steps": 3, "global_batch": 8}
        work |= {"optimizer": None, "precision": None}
        monkeypatch.setattr(grid, "work", lambda flags: work)
        flags = work | {
            "learning_rate": None,
            "option": (),
            "output": Path("out"),
            "timeout": 300.0,
            "save_model": None,
        }
        made = grid.Grid(["horovod"], [2], 1, flags, Starter(forks=False), job)
        made.try_model()
        assert made.specs[0].optimizer == "adamw:weight_decay=0.02"
        assert len(capsys.readouterr().err.splitlines()) == lines
