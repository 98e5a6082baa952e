"""The measured loop with a fake clock: what counts as a step's time, and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stratbench.datasets._arrays.order import Order
from stratbench.errors import RunError
from stratbench.harness.plan.bounds import WARMUP_STEPS
from stratbench.harness.plan.learning_rate import Schedule
from stratbench.harness.worker import snapshots
from stratbench.harness.worker.train import train
from stratbench.results.raw import journal
from stratbench.strategies.trainer import Batch, OwnLoop, StepResult, Trainer, examples_of

INPUT_SECONDS, STEP_SECONDS, SNAPSHOT_SECONDS = 1.0, 10.0, 1000.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeBatches:
    steps_per_epoch = 4
    kept = True

    def __init__(self, clock: Clock):
        self._clock = clock

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.order = Order(number, 8 * self.steps_per_epoch)
        for step in range(self.steps_per_epoch):
            self._clock.now += INPUT_SECONDS
            self.order.note(np.arange(8 * step, 8 * step + 8))
            yield np.zeros((8, 2)), np.zeros(8, "int32")


class FakeTrainer(Trainer):
    def __init__(self, clock: Clock, losses: list[float]):
        self._clock = clock
        self._losses = iter(losses)
        self.rates: list[float] = []

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        self._clock.now += STEP_SECONDS
        self.rates.append(learning_rate)
        return StepResult(next(self._losses), examples_of(batch))

    def weights(self) -> list[np.ndarray]:
        self._clock.now += SNAPSHOT_SECONDS
        return [np.full(3, self._clock.now)]


def run(
    folder: Path,
    steps: int,
    losses: list[float],
    first: int = 0,
    kind: Any = FakeTrainer,
    accumulate: int = 1,
    scales_loss: bool = False,
    evaluated: Callable[[int], bool] | None = None,
) -> tuple[journal.TaskLog, Any]:
    clock = Clock()
    trainer = kind(clock, losses)
    writer = journal.Journal(folder / "worker-0.jsonl")
    try:
        train(
            trainer,
            FakeBatches(clock),
            Schedule(0.1, 0.3, 2),
            steps,
            writer,
            folder,
            clock,
            first,
            accumulate,
            scales_loss,
            evaluated=evaluated,
        )
    finally:
        writer.close()
    return journal.read(folder / "worker-0.jsonl"), trainer


def test_steps_add_up_to_the_epoch_and_snapshots_do_not_count(tmp_path: Path) -> None:
    log, trainer = run(tmp_path, 6, [1.0] * 6)
    assert log.steps["step_seconds"].tolist() == [INPUT_SECONDS + STEP_SECONDS] * 6
    assert log.steps["input_seconds"].tolist() == [INPUT_SECONDS] * 6
    assert [event["seconds"] for event in log.epochs] == [44.0, 22.0]
    assert log.steps["epoch"].tolist() == [0, 0, 0, 0, 1, 1]
    assert log.steps["warmup"].tolist() == [step < WARMUP_STEPS for step in range(6)]
    assert trainer.rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3])
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["step-4.npz", "step-6.npz"]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(tmp_path: Path, loss: float) -> None:
    with pytest.raises(RunError, match=f"the loss became {loss} at step 2"):
        run(tmp_path, 6, [1.0, 1.0, loss, 1.0, 1.0, 1.0])
    assert len(journal.read(tmp_path / "worker-0.jsonl").steps) == 3


@pytest.mark.parametrize(
    ("first", "epochs", "saved"),
    [(3, [0, 1], ["step-4.npz", "step-6.npz"]), (4, [1], ["step-4.npz", "step-6.npz"]), (6, [], ["step-6.npz"])],
)
def test_a_process_that_goes_on_saves_what_the_one_before_may_not_have(
    tmp_path: Path, first: int, epochs: list[int], saved: list[str]
) -> None:
    log, _ = run(tmp_path, 6, [1.0] * 6, first)
    assert [event["epoch"] for event in log.epochs] == epochs
    assert log.steps["step"].tolist() == list(range(first, 6))
    assert sorted(path.name for path in tmp_path.glob("step*")) == saved


def test_a_process_that_goes_on_keeps_what_the_one_before_has_saved(tmp_path: Path) -> None:
    (tmp_path / "step-4.npz").write_text("of the end of epoch 0")
    run(tmp_path, 8, [1.0] * 8, 4)
    assert (tmp_path / "step-4.npz").read_text() == "of the end of epoch 0"


@pytest.mark.parametrize(("accumulate", "first", "expected"), [(1, 0, [1]), (3, 0, [3]), (1, 2, [])])
def test_the_weights_after_the_first_update_are_told_off_the_clock(
    tmp_path: Path, accumulate: int, first: int, expected: list[int]
) -> None:
    clock = Clock()
    trainer, told = FakeTrainer(clock, [1.0] * 8), list[int]()
    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    with closing(writer):
        train(
            trainer,
            FakeBatches(clock),  # type: ignore[arg-type]
            lambda step: 0.1,
            8,
            writer,
            tmp_path,
            clock,
            first,
            accumulate,
            updated=lambda weights: told.append(len(trainer.rates)),
        )
    assert told == expected
    log = journal.read(tmp_path / "worker-0.jsonl")
    # A process that goes on reads past the batches that the one before has had.
    assert set(log.steps["step_seconds"][1:]) == {INPUT_SECONDS + STEP_SECONDS}
    assert log.epochs[-1]["seconds"] == 44.0


class FakeLoop(OwnLoop):
    """Takes one second a step, and a hundred before the first."""

    def __init__(self, clock: Clock, losses: list[float]):
        self._clock, self._losses = clock, iter(losses)
        self.rates: list[float] = []

    def epoch(
        self, batches: Sequence[Batch], learning_rates: Sequence[float], note: Callable[[StepResult, float], None]
    ) -> None:
        self._clock.now += 100.0
        self.rates += learning_rates
        for batch in batches:
            self._clock.now += 1.0
            note(StepResult(next(self._losses), examples_of(batch)), 1.0)

    def weights(self) -> list[np.ndarray]:
        return [np.zeros(3)]


def test_the_steps_of_another_loop_are_as_it_says(tmp_path: Path) -> None:
    log, trainer = run(tmp_path, 6, [1.0] * 6, kind=FakeLoop)
    assert log.steps["step_seconds"].tolist() == [1.0] * 6 and np.isnan(log.steps["input_seconds"]).all()
    assert log.steps["step"].tolist() == list(range(6)) and log.steps["epoch"].tolist() == [0, 0, 0, 0, 1, 1]
    # The whole time, but not that of reading the data ahead.
    assert [event["seconds"] for event in log.epochs] == [104.0, 102.0]
    assert trainer.rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3])


def test_a_loss_that_is_no_number_ends_another_loop(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the loss became nan at step 2"):
        run(tmp_path, 6, [1.0, 1.0, math.nan, 1.0], kind=FakeLoop)


def test_warm_up_is_two_updates(tmp_path: Path) -> None:
    log, _ = run(tmp_path, 8, [1.0] * 8, accumulate=3)
    assert log.steps["warmup"].tolist() == [step < 2 * 3 for step in range(8)]


@pytest.mark.parametrize("kind", [FakeTrainer, FakeLoop])
def test_weights_are_kept_within_an_epoch_off_the_clock(tmp_path: Path, kind: Any) -> None:
    log, _ = run(tmp_path, 7, [1.0] * 7, kind=kind, evaluated=lambda done: done % 3 == 0)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["step-3.npz", "step-6.npz", "step-7.npz"]
    plain, _ = run(tmp_path, 7, [1.0] * 7, kind=kind)
    assert log.steps["step_seconds"].tolist() == plain.steps["step_seconds"].tolist()
    assert [event["seconds"] for event in log.epochs] == [event["seconds"] for event in plain.epochs]


@pytest.mark.parametrize("there", [True, False])
def test_who_does_not_save_rests_until_the_file_is_there(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "step-3.npz").touch()
    snapshots.save(tmp_path, 3, 1, [np.zeros(3)], reports=False, again=True, meets=True)
    assert len(list(tmp_path.iterdir())) == there
