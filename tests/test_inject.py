"""Faults asked for: their grammar, when they strike, and what real runs make of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import STARTER, make_spec, processes_of
from stratbench.errors import UsageError
from stratbench.harness.launch.run import run_one
from stratbench.harness.plan.bounds import WARMUP_STEPS
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.faults import parse
from stratbench.harness.plan.task import SCRATCH
from stratbench.harness.worker import inject, stopper
from stratbench.harness.worker.inject import CALIBRATION_STEPS, Injector, Slowness
from stratbench.results.raw import journal
from stratbench.results.raw.record import Record
from stratbench.results.tables.store import Store
from stratbench.strategies.base import Task
from stratbench.strategies.trainer import Batch, StepResult, Trainer

KILL = "kill:worker=1,step=50"


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            (KILL, KILL),
            ("kill:step=50,worker=1", KILL),
            ("kill:ps=0,step=0", "kill:ps=0,step=0"),
            ("slow:worker=1,factor=3.0", "slow:worker=1,factor=3"),
            ("slow: worker = 1, seconds=0.05, probability=0.1", "slow:worker=1,seconds=0.05,probability=0.1"),
            ("pause:worker=0,step=5,seconds=10", "pause:worker=0,step=5,seconds=10"),
        ],
    )
    def test_one_text_for_a_fault(self, text: str, canonical: str) -> None:
        assert str(parse(text)) == canonical

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("", "kill:worker=I"),
            ("kil:worker=1,step=5", "Did you mean 'kill'?"),
            ("kill:worker=1", "step=N"),
            ("kill:worker=1,ps=0,step=5", "in place of worker, also ps or part"),
            ("kill:worker=1,step=1.5", "N ≥ 0"),
            ("kill:worker=-1,step=5", "N ≥ 0"),
            ("kill:worker=1,step=5,step=6", "kill:worker=I"),
            ("slow:worker=1", "factor=F"),
            ("slow:worker=1,factor=1", "F > 1"),
            ("slow:worker=1,factor=2,seconds=1", "or slow:"),
            ("slow:worker=1,factor=2,probability=0.5", "or slow:"),
            ("slow:worker=1,seconds=inf", "S > 0"),
            ("slow:worker=1,seconds=1,probability=2", "0 < P ≤ 1"),
            ("slow:ps=0,factor=2", "slow:worker=I"),
            ("pause:worker=1,step=5", "seconds=S"),
        ],
    )
    def test_a_bad_one_is_refused_in_one_line(self, text: str, hint: str) -> None:
        with pytest.raises(UsageError) as refused:
            parse(text)
        assert hint in str(refused.value) and "Received: '" in str(refused.value)


class TestSpec:
    def test_a_fault_is_a_part_of_the_run_id_whatever_its_spelling(self) -> None:
        plain, struck = make_spec("ps", 2), make_spec("ps", 2, inject=[KILL])
        assert plain.run_id != struck.run_id == make_spec("ps", 2, inject=["kill:step=50,worker=1"]).run_id

    def test_a_run_without_the_task_is_skipped_and_a_grid_without_it_refused(self) -> None:
        grid = Experiment(strategies=["ps"], replicas=[1, 2], global_batch=32, dataset="synthetic", inject=[KILL])
        one, two = grid.expand()
        assert "there is no worker-1" in (one.skip() or "") and two.skip() is None
        with pytest.raises(UsageError, match="ps at 1 has ps-0, worker-0"):
            Experiment(strategies=["ps"], replicas=[1], global_batch=32, dataset="synthetic", inject=[KILL]).expand()

    def test_workers_of_a_job_are_tasks_too(self) -> None:
        assert make_spec("horovod", 3).labels() == ["worker-0", "worker-1", "worker-2"]


class TestSlowness:
    def test_a_factor_is_of_the_first_steps_left_alone(self) -> None:
        slow = Slowness([parse("slow:worker=1,factor=3")], seed=1)
        delays = []
        for number in range(WARMUP_STEPS + CALIBRATION_STEPS + 5):
            slow.begin()
            delays.append(slow.seconds)
            # The warm-up is long, and what comes later must not be a measure: it holds the delay itself.
            slow.end(50.0 if number < WARMUP_STEPS else 0.1 + slow.seconds)
        assert delays[:-5] == [0.0] * (WARMUP_STEPS + CALIBRATION_STEPS)
        assert delays[-5:] == pytest.approx([0.2] * 5)
        assert slow.total_seconds == pytest.approx(1.0)

    def test_a_probability_is_of_each_step_and_repeats_with_the_seed(self) -> None:
        def draw(seed: int) -> list[float]:
            slow = Slowness([parse("slow:worker=1,seconds=0.5,probability=0.25")], seed)
            seconds = []
            for _ in range(400):
                slow.begin()
                seconds.append(slow.seconds)
            return seconds

        hit = np.count_nonzero(draw(1))
        assert 60 < hit < 140 and set(draw(1)) == {0.0, 0.5}
        assert draw(1) == draw(1) != draw(2)


PAUSED = """
import sys, threading, time
import os
from pathlib import Path
from stratbench.harness.plan.faults import Fault
from stratbench.harness.worker.inject import _stop, _wait
ticks, ended = [], threading.Event()
def tick():
    while not ended.is_set():
        ticks.append(time.monotonic())
        time.sleep(0.01)
ticker = threading.Thread(target=tick)
ticker.start()
time.sleep(0.1)
begin = time.monotonic()
try:
    fault = Fault('pause', 'worker', 0, seconds=float(sys.argv[1]))
    _wait(_stop(os.getpid(), fault, Path(sys.argv[2])), fault)
finally:
    seconds, count = time.monotonic() - begin, len(ticks)
    # The other thread may run after this one: the gap is there once it has noted its first moment after the pause.
    while len(ticks) <= count:
        time.sleep(0.001)
    ended.set()
    ticker.join()
    print(seconds, max(b - a for a, b in zip(ticks, ticks[1:])))
"""


class Steps(Trainer):
    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        return StepResult(0.0, 1)

    def weights(self) -> list[np.ndarray]:
        return []


class TestInjector:
    def strikes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, first: int = 0) -> list[int]:
        """Steps before which a kill of worker 1 at 3 and at 6 comes, of ten."""
        struck: list[int] = []
        monkeypatch.setattr(inject.os, "kill", lambda pid, number: struck.append(number))
        writer = journal.Journal(tmp_path / f"{task.label}.jsonl")
        faults = [parse("kill:worker=1,step=3"), parse("kill:worker=1,step=6")]
        trainer = Injector(faults, task, 1, writer, first).around(Steps(), first)
        for _ in range(first, 10):
            trainer.step((np.zeros(1), np.zeros(1)), 0.1)
        writer.close()
        assert struck == [signal.SIGKILL] * len(struck)
        return [event["step"] for event in journal.read(writer.path).injected]

    def test_strikes_its_own_task_at_the_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.strikes(tmp_path, monkeypatch, Task(index=1)) == [3, 6]
        assert self.strikes(tmp_path, monkeypatch, Task(index=0)) == []

    def test_what_killed_a_worker_does_not_kill_its_successor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.strikes(tmp_path, monkeypatch, Task(index=1, attempt=1), first=3) == [6]

    def test_what_kills_the_worker_itself_comes_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inject.os, "kill", lambda pid, number: None)
        monkeypatch.setattr(inject, "_stop", lambda pid, fault, journal: SimpleNamespace(wait=lambda: 0))
        texts = ["kill:worker=0,step=0", "kill:ps=0,step=0", "pause:worker=0,step=0,seconds=0.01"]
        writer = journal.Journal(tmp_path / "worker-0.jsonl")
        Injector([parse(text) for text in texts], Task(index=0), 1, writer).inject(0)
        writer.close()
        done = [event["fault"] for event in journal.read(writer.path).injected]
        assert sorted(done) == sorted(texts) and done[-1] == texts[0]

    def test_a_ps_task_that_is_dead_already_is_no_error(self, tmp_path: Path) -> None:
        writer = journal.Journal(tmp_path / "ps-0.jsonl")
        with subprocess.Popen([sys.executable, "-c", "pass", str(tmp_path)]) as process:
            writer.event("start", pid=process.pid, created=time.time(), host=socket.gethostname())
            # Ended, and nobody has waited for it.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            inject._kill(writer.path)
        inject._kill(writer.path)
        writer.close()

    def test_nothing_is_around_a_trainer_that_nothing_strikes(self, tmp_path: Path) -> None:
        writer = journal.Journal(tmp_path / "worker-0.jsonl")
        trainer = Steps()
        injector = Injector([parse(KILL)], Task(index=0), 1, writer)
        assert injector.around(trainer) is trainer and injector.delay is None

    def test_a_pause_stops_the_whole_process_and_ends(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", PAUSED, "0.7", str(tmp_path)]
        process = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
        seconds, gap = map(float, process.stdout.split())
        assert min(seconds, gap) >= 0.7, (seconds, gap)
        assert not processes_of(tmp_path)


class TestPause:
    """Of a real process with a second thread, that prints how long it was away and how long that thread was."""

    @pytest.fixture
    def paused(self, tmp_path: Path, no_strays: None) -> Iterator[subprocess.Popen[str]]:
        """Stopped for a minute."""
        command = [sys.executable, "-c", PAUSED, "60", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                self.wait(lambda: stopper.stopped(psutil.Process(process.pid)) and len(self.helpers(tmp_path)) == 2)
                yield process
            finally:
                process.kill()
                process.communicate()
                self.wait(lambda: not processes_of(tmp_path))

    @staticmethod
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @staticmethod
    def helpers(folder: Path) -> list[psutil.Process]:
        """What stops it, and what guards that, in this order."""
        found = [each for each in processes_of(folder) if "stratbench.harness.worker.stopper" in each.info["cmdline"]]
        return sorted(found, key=lambda each: each.pid)

    def test_a_process_killed_in_it_leaves_no_helper(self, paused: subprocess.Popen[str], tmp_path: Path) -> None:
        paused.kill()
        self.wait(lambda: not self.helpers(tmp_path))

    @pytest.mark.parametrize("victim", [0, 1], ids=["stopper", "guard"])
    def test_a_helper_that_is_killed(self, victim: int, paused: subprocess.Popen[str], tmp_path: Path) -> None:
        self.helpers(tmp_path)[victim].kill()
        if victim:
            time.sleep(0.3)
            assert stopper.stopped(psutil.Process(paused.pid)), "without its guard, the pause goes on"
        else:
            assert "must stop the process for 60 s" in paused.communicate(timeout=20)[1]
            self.wait(lambda: not self.helpers(tmp_path))

    def test_one_that_another_process_ends_is_no_pause(self, paused: subprocess.Popen[str], tmp_path: Path) -> None:
        paused.send_signal(signal.SIGCONT)
        assert "resumed it with SIGCONT" in paused.communicate(timeout=20)[1]
        assert not self.helpers(tmp_path)


def run(folder: Path, strategy: str, replicas: int, *faults: str, **changes: Any) -> Record:
    """A real run's record, with the traces of all that it started gone."""
    changes = {"per_replica_batch": 16, "steps": 200, "timeout": 60.0} | changes
    with Store(folder) as store:
        spec = make_spec(strategy, replicas, inject=faults, **changes)
        record = run_one(spec, store, threading.Event(), lambda label, event: None, starter=STARTER)
    assert not processes_of(folder)
    assert not (folder / "runs" / spec.run_id / SCRATCH).exists()
    return record


def steps_of(record: Record, worker: int) -> np.ndarray:
    table = record.steps
    return table["step"][(table["role"] == "worker") & (table["task"] == worker)]


@pytest.mark.slow
class TestRuns:
    @pytest.mark.parametrize(
        "strategy", ["ps", pytest.param("ps:mode=downpour,fetch=3,push=3", marks=pytest.mark.exhaustive)]
    )
    def test_asynchronous_workers_go_on_without_one(self, strategy: str, tmp_path: Path) -> None:
        row = (record := run(tmp_path, strategy, 2, KILL)).run
        assert row["status"] == "ok", row["reason"]
        assert "worker-1 was killed by SIGKILL before step 50" in row["fault"] and "others went on" in row["fault"]
        assert 0 <= row["noticed_seconds"] < 10
        assert (row["lost_steps"], row["lost_share"]) == (150, 0.375)
        assert len(steps_of(record, 0)) == 200 and len(steps_of(record, 1)) == 50

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("strategy", ["ps", "horovod:elastic=true"])
    def test_the_next_worker_saves_and_evaluates_for_the_first(self, strategy: str, tmp_path: Path) -> None:
        record = run(tmp_path, strategy, 3, "kill:worker=0,step=50")
        row = record.run
        assert row["status"] == "ok", row["reason"]
        assert "worker-0 was killed" in row["fault"] and "others went on" in row["fault"]
        assert (row["lost_steps"], row["lost_share"]) == (150, 0.25)
        assert len(steps_of(record, 1)) == len(steps_of(record, 2)) == 200
        assert 0 < row["test_accuracy"] <= 1 and row["steps_done"] == 200

    @pytest.mark.exhaustive
    def test_an_elastic_job_does_not_shrink_below_its_minimum(self, tmp_path: Path) -> None:
        row = run(tmp_path, "horovod:elastic=true,min_replicas=2", 2, KILL).run
        assert row["status"] == "failed" and "worker-1 was killed by SIGKILL after step 49" in row["reason"]

    def test_backup_workers_make_up_for_one(self, tmp_path: Path) -> None:
        # A step ends with the first gradient: only a slow worker 0 leaves worker 1 a step to die before.
        faults = ("slow:worker=0,seconds=0.05", "kill:worker=1,step=5")
        row = run(tmp_path, "ps:sync=true,backup=1", 2, *faults, steps=60).run
        assert row["status"] == "ok" and "others went on" in row["fault"], row

    @pytest.mark.parametrize(
        "moment",
        ["half written", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("written", "announced"))],
    )
    def test_a_death_within_a_push_stops_nobody(
        self, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(Path(__file__).parent)
        monkeypatch.setenv("TEST_DIES_IN_PUSH", moment)
        strategy, model = "ps:sync=true,backup=1,ps=2", "dies_in_push:model"
        steps = 200
        record = run(tmp_path, strategy, 3, model=model, steps=steps, timeout=60.0)
        assert record.run["status"] == "ok", record.run["reason"]
        assert "worker-1 was killed by SIGKILL" in record.run["fault"] and "others went on" in record.run["fault"]
        updates = record.updates
        counted = np.bincount(updates["update"][updates["applied"] & (updates["task"] != 1)], minlength=steps)
        # Both others are needed in every step but those, at most 11, that worker 1 took part in. It may begin late.
        assert counted[-1] == 2 and set(counted) <= {1, 2}
        assert np.count_nonzero(counted == 1) <= 11

    @pytest.mark.parametrize(
        "strategy",
        [
            "ps:sync=true",
            *(
                pytest.param(name, marks=pytest.mark.exhaustive)
                for name in ("multiworker", "horovod", "ps:mode=ssp,staleness=2", "ps-tree", "fsdp", "allgather")
            ),
        ],
    )
    def test_synchronous_workers_end_with_the_one_that_died(self, strategy: str, tmp_path: Path) -> None:
        row = run(tmp_path, strategy, 2, KILL).run
        assert row["status"] == "failed"
        assert "worker-1 was killed by SIGKILL after step 49" in row["reason"]
        assert row["noticed_seconds"] < 10

    def test_a_restarted_worker_does_the_rest(self, tmp_path: Path) -> None:
        row = (record := run(tmp_path, "ps:restart=true", 2, KILL)).run
        assert row["status"] == "ok", row["reason"]
        assert "it was started again" in row["fault"] and row["down_seconds"] > 0
        assert steps_of(record, 1).tolist() == list(range(200)) and row["lost_steps"] == 0
        (task,) = [task for task in record.tasks if (task["role"], task["task"]) == ("worker", 1)]
        assert task["starts"] == 2
        updates = record.updates
        assert 50 in updates["step"][updates["task"] == 1]

    def test_a_ps_task_comes_back_with_its_checkpoint(self, tmp_path: Path) -> None:
        row = run(tmp_path, "ps:checkpoint_every=20,ps=2", 2, "kill:ps=0,step=50", optimizer="momentum").run
        assert row["status"] == "ok", row["reason"]
        assert "ps-0 was killed" in row["fault"] and "went on from update" in row["fault"]
        assert 0 < row["lost_steps"] < 200 and row["down_seconds"] > 0

    @pytest.mark.parametrize("step", [50, pytest.param(51, marks=pytest.mark.exhaustive)])
    def test_a_ps_task_and_the_worker_that_restores_die_together(self, step: int, tmp_path: Path) -> None:
        faults = ["kill:ps=0,step=50", f"kill:worker=0,step={step}"]
        record = run(tmp_path, "ps:checkpoint_every=20,restart=true,ps=2", 2, *faults, timeout=90.0)
        row = record.run
        assert row["status"] == "ok", row["reason"]
        for task in ("ps-0", "worker-0"):
            assert f"{task} was killed by SIGKILL" in row["fault"]
        assert "went on from update" in row["fault"] and "not injected" not in row["fault"]
        for worker in (0, 1):
            assert np.unique(steps_of(record, worker)).tolist() == list(range(200))
        # Worker 0 had saved after its step 40, and died some steps later.
        assert 0 < row["lost_steps"] < 200

    def test_the_next_worker_restores_when_the_first_died_for_good(self, tmp_path: Path) -> None:
        faults = ["kill:ps=0,step=50", "kill:worker=0,step=50"]
        row = (record := run(tmp_path, "ps:checkpoint_every=20", 3, *faults, timeout=90.0)).run
        assert row["status"] == "ok", row["reason"]
        assert "worker-0 was killed" in row["fault"] and "went on from update" in row["fault"]
        assert len(steps_of(record, 1)) == len(steps_of(record, 2)) == 200
        # All that worker 0 did not do, and what it did after its last checkpoint.
        assert row["lost_steps"] >= 150 + 10

    @pytest.mark.exhaustive
    def test_a_ps_task_without_one_ends_the_run(self, tmp_path: Path) -> None:
        row = run(tmp_path, "ps", 2, "kill:ps=0,step=50").run
        assert row["status"] == "failed" and "ps-0 was killed by SIGKILL" in row["reason"]

    def test_a_pause_is_seen_in_its_worker_and_in_the_wait_of_others(self, tmp_path: Path) -> None:
        record = run(tmp_path, "ps:sync=true", 2, "pause:worker=1,step=50,seconds=3")
        assert record.run["status"] == "ok", record.run["reason"]
        steps, updates = record.steps, record.updates
        paused = (steps["task"] == 1) & (steps["step"] == 50)
        assert steps["step_seconds"][paused] > 2.5
        waited = (updates["task"] == 0) & (updates["step"] == 50)
        assert updates["blocked_seconds"][waited] > 2.0

    def test_a_pause_longer_than_the_timeout_is_one(self, tmp_path: Path) -> None:
        row = run(tmp_path, "ps:sync=true", 2, "pause:worker=1,step=50,seconds=60", timeout=12.0).run
        assert row["status"] == "timeout" and "pause:worker=1,step=50,seconds=60" in row["fault"]

    def test_a_slow_worker_is_named_and_its_gradients_are_stale(self, tmp_path: Path) -> None:
        record = run(tmp_path, "ps", 2, "slow:worker=1,seconds=0.02")
        assert record.run["status"] == "ok", record.run["reason"]
        slow = {task["task"]: task for task in record.tasks if task["role"] == "worker"}
        assert slow[1]["injected_seconds"] == pytest.approx(200 * 0.02)
        assert np.isnan(slow[0]["injected_seconds"])
        assert slow[1]["examples_per_second"] < slow[0]["examples_per_second"]
        updates = record.updates
        stale = [updates["staleness"][updates["task"] == worker].mean() for worker in (0, 1)]
        assert stale[1] > stale[0]
