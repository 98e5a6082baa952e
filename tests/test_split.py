"""Where the seconds of a step go: from a task's moments to the tables, the answer in words, and `diff`."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import launch, make_spec
from result_rows import compare, run, text
from stratbench.results.analysis import comparison, difference
from stratbench.results.analysis import split as shares
from stratbench.results.raw import journal, split
from test_results_record import make_log, make_record

PARTS = ("computing_seconds", "communicating_seconds", "waiting_seconds")


def log_of(index, ready_at, computing=0.05, communicating=0.03, waiting=0.0, **start):
    """Steps of 0.1 s, of which the first is warm-up; 0.01 s of each is input."""
    log = make_log(index, step_seconds=(0.1,) * len(ready_at), losses=(1.0,) * len(ready_at))
    log.start |= start
    log.starts = [log.start]
    for name, values in zip(
        ("computing_seconds", "communicating_seconds", "waiting_seconds", "ready_at"),
        (computing, communicating, waiting, ready_at),
        strict=True,
    ):
        log.steps[name] = values
    return log


def of_steps(logs):
    return [each.columns for each in split.of(logs)]


def of_tasks(logs):
    return [each.sums() for each in split.of(logs)]


def of_run(logs):
    return split.run(split.of(logs))


class TestSteps:
    def test_a_worker_waits_for_the_last_one_to_be_ready(self):
        logs = [log_of(0, [10.0, 11.0, 12.0]), log_of(1, [10.0, 11.02, 11.99])]
        first, second = of_steps(logs)
        assert first["waiting_seconds"] == pytest.approx([0.0, 0.02, 0.0])
        assert second["waiting_seconds"] == pytest.approx([0.0, 0.0, 0.01])
        for steps in (first, second):
            assert steps["waiting_seconds"] + steps["communicating_seconds"] == pytest.approx([0.03] * 3)
            assert steps["computing_seconds"] == pytest.approx([0.05] * 3)

    def test_it_waits_no_longer_than_its_own_exchange(self):
        first, _ = of_steps([log_of(0, [10.0]), log_of(1, [17.0])])
        assert first["waiting_seconds"] == pytest.approx([0.03])
        assert first["communicating_seconds"] == pytest.approx([0.0])

    def test_what_a_task_knows_of_waiting_by_itself_is_added(self):
        first, _ = of_steps([log_of(0, [10.0], waiting=0.005), log_of(1, [10.01])])
        assert first["waiting_seconds"] == pytest.approx([0.015])

    @pytest.mark.parametrize(
        "other",
        [
            log_of(1, [10.02], host="b"),
            log_of(1, [math.nan]),
            make_log(1, step_seconds=(), losses=()),
        ],
        ids=["another host's clock", "not an exchange of all", "no steps"],
    )
    def test_where_moments_can_t_be_compared_waiting_is_in_communicating(self, other):
        (first, *_) = of_steps([log_of(0, [10.0]), other])
        assert first["waiting_seconds"] == pytest.approx([0.0])
        assert first["communicating_seconds"] == pytest.approx([0.03])

    def test_after_a_restart_the_steps_of_one_number_are_not_compared(self):
        logs = [log_of(0, [10.0]), log_of(1, [10.02])]
        logs[1].starts *= 2
        assert of_steps(logs)[0]["waiting_seconds"] == pytest.approx([0.0])

    def test_unknown_stays_unknown(self):
        (steps,) = of_steps([make_log()])
        assert all(np.isnan(values).all() for values in steps.values())


class TestRuns:
    def test_sums_are_of_measured_steps_and_shares_of_all_tasks(self):
        logs = [log_of(0, [10.0, 11.0, 12.0]), log_of(1, [10.0, 11.02, 12.02])]
        first, second = of_tasks(logs)
        assert (first["input_seconds"], first["computing_seconds"]) == pytest.approx((0.02, 0.1))
        assert (first["waiting_seconds"], second["waiting_seconds"]) == pytest.approx((0.04, 0.0))
        assert (first["last_share"], second["last_share"]) == (0.0, 1.0)
        row = of_run(logs)
        assert row["computing_share"] == pytest.approx(0.5)
        assert row["waiting_share"] == pytest.approx(0.1)
        assert row["communicating_share"] == pytest.approx(0.2)
        assert row["input_share"] == pytest.approx(0.1)
        assert row["straggler"] == ""

    def test_a_straggler_is_named(self):
        logs = [log_of(0, [10.0, 11.0]), log_of(1, [10.0, 11.02], computing=0.06), log_of(2, [10.0, 11.0])]
        assert of_run(logs)["straggler"] == "worker-1 computes 20 % longer than the others, last in 100 % of the steps"
        logs = [log_of(0, [math.nan] * 2), log_of(1, [math.nan] * 2, computing=0.06)]
        assert of_run(logs)["straggler"] == "worker-1 computes 20 % longer than the others"

    def test_one_that_is_not_last_is_no_straggler(self):
        logs = [log_of(0, [10.0, 11.03]), log_of(1, [10.0, 11.02], computing=0.06)]
        assert of_run(logs)["straggler"] == ""

    def test_one_task_without_a_split_makes_the_run_s_unknown(self):
        row = of_run([log_of(0, [10.0, 11.0]), make_log(1)])
        assert math.isnan(row["computing_share"])
        assert row["input_share"] > 0

    def test_without_logs_there_is_nothing(self):
        assert math.isnan(of_run([])["computing_share"])

    def test_a_record_has_it_in_three_tables(self):
        record = make_record(logs=[log_of(0, [10.0, 11.0, 12.0]), log_of(1, [10.0, 11.02, 12.02])])
        assert record.steps["waiting_seconds"] == pytest.approx([0.0, 0.02, 0.02, 0.0, 0.0, 0.0])
        assert [task["waiting_seconds"] for task in record.tasks] == pytest.approx([0.04, 0.0])
        assert record.run["waiting_share"] == pytest.approx(0.1)
        whole = sum(record.steps[name] for name in (*PARTS, "input_seconds"))
        assert (whole <= record.steps["step_seconds"] + 1e-9).all()


def test_the_journal_keeps_moments_to_the_microsecond(tmp_path):
    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    writer.step(0, 0, 0.1, 0.0, 8, 1.0, False, 1.0, (0.05, 0.03, 0.0, 1764414312.123456))
    writer.step(0, 1, 0.1, 0.0, 8, 1.0, False, 1.0)
    writer.close()
    steps = journal.read(tmp_path / "worker-0.jsonl").steps
    assert steps["ready_at"][0] == 1764414312.123456
    assert math.isnan(steps["computing_seconds"][1])


def of(computing, communicating, waiting=0.0, data=0.0):
    return {
        "computing_share": computing,
        "communicating_share": communicating,
        "waiting_share": waiting,
        "input_share": data,
    }


class TestShowing:
    def test_one_column_and_what_it_means(self):
        shown = text(run("single", rate=100, **of(0.99, 0)), run("ps", 2, 150, **of(0.701, 0.199, 0.05)))
        assert "99/0/0" in shown
        assert "70/20/5" in shown
        assert (
            "comp/comm/wait: % of a step in computing, communicating, waiting for others; the rest: waiting for data"
            in shown
        )

    def test_without_a_split_there_is_no_column(self):
        assert "comp/" not in text(run("single"), run("ps", 2))

    def test_a_row_without_one_has_a_dash(self):
        rows = compare(run("single", **of(0.99, 0)), run("fit"))
        assert shares.shares(rows[1]) == {}
        assert shares.shares(rows[0])["rest"] == pytest.approx(0.01)
        assert "–" in next(
            line for line in text(run("single", **of(0.99, 0)), run("fit")).splitlines() if "fit" in line
        )

    def test_the_answer_says_what_is_not_computing(self):
        shown = text(run("single", rate=100), run("ps", 2, 150, **of(0.6, 0.21, 0.16, 0.02)))
        assert "Communicating takes 21% of its step, waiting for others 16%." in shown

    def test_where_nothing_pays_it_says_why(self):
        rows = [run("single", rate=100 + r, repeat=r) for r in range(3)]
        rows += [run("ps", 2, 50 + r, repeat=r, **of(0.3, 0.61, 0.04)) for r in range(3)]
        assert "Communicating takes 61% of ps ×2's step." in text(*rows)

    def test_computing_that_is_slower_itself_is_told(self):
        rows = run("single", rate=100, **of(0.99, 0)), run("ps", 2, 136, **of(0.93, 0.05))
        (_, found) = compare(*rows)
        # 2 replicas × 0.93 / 136 against 0.99 / 100 seconds of computing an example.
        assert found["computing_ratio"] == pytest.approx(2 * 0.93 / 136 / (0.99 / 100))
        assert found["efficiency"] == pytest.approx(0.93 / 0.99 / found["computing_ratio"])
        assert "Computing an example takes 1.38× as long as in single ×1; shared memory" in text(*rows)
        assert "Computing an example" not in text(rows[0], run("ps", 2, 180, **of(0.93, 0.05)))

    def test_a_straggler_is_a_remark(self):
        shown = text(run("single"), run("ps", 2, straggler="worker-1 computes 20 % longer than the others"))
        assert "ps ×2 straggler: worker-1 computes 20 % longer than the others" in shown


def runs(rate, parts, jitter=(0.99, 1.0, 1.01, 1.005)):
    return pd.DataFrame([run("ps", 2, rate * each, repeat=r, **parts) for r, each in enumerate(jitter)])


class TestDiff:
    @pytest.mark.parametrize(
        ("after", "part", "change"),
        [
            (of(0.7 / 1.1 + 0.1 / 1.1, 0.3 / 1.1), "computing", 0.1),
            (of(0.7 / 1.1, 0.3 / 1.1 + 0.1 / 1.1), "communicating", 0.1),
            (of(0.7 / 1.1, 0.3 / 1.1, 0.1 / 1.1), "waiting", 0.1),
            (of(0.7 / 1.1, 0.3 / 1.1, 0.0, 0.1 / 1.1), "input", 0.1),
            (of(0.7 / 1.1, 0.3 / 1.1), "rest", 0.1),
        ],
    )
    def test_the_part_that_became_slower_is_named(self, after, part, change):
        (found,) = difference.between_folders(runs(100, of(0.7, 0.3)), runs(100 / 1.1, after), 0.05)
        assert found.verdict == "slower"
        assert found.where.part == part
        assert found.where.change.value == pytest.approx(change, abs=0.002)

    def test_the_part_that_became_faster_is_named(self):
        (found,) = difference.between_folders(runs(100, of(0.6, 0.4)), runs(125, of(0.75, 0.25)), 0.05)
        assert found.verdict == "faster"
        assert found.where.part == "communicating"
        assert found.where.change.value == pytest.approx(-0.2, abs=0.005)

    def test_without_a_difference_nothing_is_named(self):
        (found,) = difference.between_folders(runs(100, of(0.6, 0.4)), runs(100.1, of(0.5, 0.5)), 0.05)
        assert found.verdict == "no difference shown"
        assert found.where is None

    def test_without_a_split_nothing_is_named(self):
        (found,) = difference.between_folders(runs(100, {}), runs(80, of(0.5, 0.5)), 0.05)
        assert found.verdict == "slower"
        assert found.where is None

    def test_parts_of_an_example_add_up_to_its_time(self):
        (row,) = comparison.summaries(runs(100, of(0.6, 0.3, 0.05, 0.02)))
        for repeat, parts in shares._seconds(row).items():
            assert sum(parts.values()) == pytest.approx(1 / row["rates"][repeat])


SLEEP_SECONDS = 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    ["horovod", "multiworker", "allreduce", "allgather", "master-worker", "fsdp", "ps:sync=true", "local-sgd:period=1"],
)
def test_a_slow_worker_computes_and_the_other_waits(strategy: str, tmp_path: Path) -> None:
    spec = make_spec(strategy, 2, model="mlp", steps=30, inject=[f"slow:worker=0,seconds={SLEEP_SECONDS}"])
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / "run" / f"worker-{rank}.jsonl") for rank in range(2)]
    slow, other = of_tasks(logs)
    slept = SLEEP_SECONDS * (~logs[0].steps["warmup"]).sum()
    assert slow["computing_seconds"] >= slept
    assert other["computing_seconds"] < slept
    assert other["waiting_seconds"] > 0.5 * slept
    assert slow["waiting_seconds"] < 0.5 * slept
    assert of_run(logs)["straggler"].startswith("worker-0 computes ")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mirrored", "model-parallel"])
def test_in_one_process_the_others_wait_too(strategy: str, tmp_path: Path) -> None:
    """Of `mirrored`, the sleeping is that of every replica: they share what slows the process down."""
    label = "part=1" if strategy == "model-parallel" else "worker=0"
    spec = make_spec(strategy, 2, model="mlp", steps=30, inject=[f"slow:{label},seconds={SLEEP_SECONDS}"])
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    log = journal.read(tmp_path / "run" / "worker-0.jsonl")
    (task,) = of_tasks([log])
    slept = SLEEP_SECONDS * (~log.steps["warmup"]).sum()
    assert task["computing_seconds"] + task["waiting_seconds"] >= 0.9 * slept
