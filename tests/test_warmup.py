"""Where the warm-up of a run is found to end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from stratbench.results.raw import warmup
from stratbench.results.raw.journal import TaskLog
from test_results_record import make_log, make_record


def log(seconds: list[float], index: int = 0, marked: int = 2) -> TaskLog:
    """Of a worker whose first steps are marked."""
    made = make_log(index, tuple(seconds), losses=[1.0] * len(seconds))
    made.steps["warmup"] = np.arange(len(seconds)) < marked
    return made


def ends(*logs: TaskLog) -> list[int]:
    warmup.extend(logs)
    for each in logs:
        found = each.steps["warmup"]
        assert (found[: found.sum()]).all()
    return [int(each.steps["warmup"].sum()) for each in logs]


def test_steps_that_settle_late_are_left_out() -> None:
    """The median of five steps allows two slow ones among them."""
    assert ends(log([9.0, 1.0, *[0.5] * 10, *[0.1] * 88])) == [12 - 2]


def test_settled_steps_stay() -> None:
    assert ends(log([9.0, 1.0, *[0.1] * 98])) == [2]


def test_a_slow_step_now_and_then_is_no_warm_up() -> None:
    assert ends(log([9.0, 1.0, 0.1, 0.9, 0.1, 0.1, 0.9, *[0.1] * 93])) == [2]


def test_a_run_that_becomes_faster_all_the_time_loses_a_quarter() -> None:
    assert ends(log([9.0, 1.0, *np.linspace(1.0, 0.1, 100).tolist()])) == [2 + 25]


def test_of_few_steps_nothing_more_is_left_out() -> None:
    assert ends(log([9.0, 1.0, *[0.5] * 10, *[0.1] * 29])) == [2]


def test_the_latest_task_decides_for_all() -> None:
    quick, slow = [9.0, 1.0, *[0.1] * 98], [9.0, 1.0, *[0.5] * 10, *[0.1] * 88]
    assert ends(log(quick), log(slow, 1)) == [10, 10]


def test_a_task_that_was_started_again_keeps_its_marks() -> None:
    again = log([9.0, 1.0, *[0.5] * 10, *[0.1] * 88])
    again.starts = [{}, {}]
    assert ends(again) == [2]


def test_rates_leave_them_out_and_the_row_tells_how_many() -> None:
    record = make_record(logs=[log([9.0, 1.0, *[0.5] * 10, *[0.1] * 88])])
    assert record.run["warmup_steps"] == 10 and record.steps["warmup"].sum() == 10
    assert record.run["step_seconds_median"] == pytest.approx(0.1)
    assert record.tasks[0]["measured_seconds"] == pytest.approx(2 * 0.5 + 88 * 0.1)


@given(some.lists(some.floats(1e-6, 1e6), min_size=1, max_size=200))
def test_at_most_a_quarter_is_left_out(seconds: list[float]) -> None:
    (found,) = ends(log(seconds))
    assert min(2, len(seconds)) <= found <= 2 + max(len(seconds) - 2, 0) // 4
