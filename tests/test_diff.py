"""``stratbench diff``: what it calls a change, what it leaves open, and what it refuses to compare."""

from __future__ import annotations

import io
import json
import math
import random

import pandas as pd
import pytest
from click.testing import CliRunner
from result_rows import run
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.results.analysis import difference, intervals
from stratbench.results.showing import changes as showing
from stratbench.results.showing import terminal


def rows(strategy="ps", replicas=2, rates=(100.0, 101.0, 99.0, 100.5), **changes):
    return [run(strategy, replicas, rate, repeat=repeat, **changes) for repeat, rate in enumerate(rates)]


def changed(before, after, share=0.05):
    return difference.between_folders(pd.DataFrame(before), pd.DataFrame(after), share)


def shown(changes, share=0.05):
    stream = io.StringIO()
    showing.render(changes, ("old", "new"), share, terminal.make_console(stream))
    return stream.getvalue()


def test_a_slower_rate_is_a_change() -> None:
    (change,) = changed(rows(), rows(rates=(90.0, 91.0, 89.0, 90.5)))
    assert (change.verdict, change.runs, change.rate.by_rounds) == ("slower", (4, 4), False)
    assert change.rate.value == pytest.approx(0.9, abs=1e-3)
    assert 0.88 < change.rate.low < change.rate.value < change.rate.high < 0.92
    assert change.slower_by(0.05) and not change.slower_by(0.11)
    output = shown([change])
    assert "slower, 10.0%" in output and "of independent runs (Welch)" in output


def test_a_faster_rate_is_a_change_but_not_slower() -> None:
    (change,) = changed(rows(), rows(rates=(110.0, 111.0, 112.0)))
    assert change.verdict == "faster" and not change.slower_by(0.001)


def test_rows_of_one_strategy_at_several_batches_are_told_apart() -> None:
    noisy = (80.0, 100.0, 120.0, 100.0)
    output = shown(changed(*([*rows(rates=noisy, batch=64), *rows(rates=noisy, batch=128)] for _ in range(2))))
    assert "ps ×2 at batch 64: too noisy" in output and "ps ×2 at batch 128: too noisy" in output


def test_noise_is_no_change_and_repeats_are_told() -> None:
    (change,) = changed(rows(rates=(80.0, 100.0, 120.0, 100.0)), rows(rates=(85.0, 105.0, 115.0, 90.0)))
    assert change.verdict == "no difference shown" and change.repeats and 40 < change.repeats < 400
    assert f"too noisy to show a difference of 5 %: about {change.repeats} runs of each would" in shown([change])


def test_alike_within_a_tight_interval_needs_no_more_runs() -> None:
    (change,) = changed(rows(), rows(rates=(100.2, 100.4, 99.9, 99.8)))
    assert change.verdict == "no difference shown" and "noisy" not in shown([change])


def test_two_runs_allow_no_verdict() -> None:
    (change,) = changed(rows(), rows(rates=(50.0, 50.1)))
    assert change.verdict == "too few runs" and math.isnan(change.rate.low) and change.repeats is None
    assert "~0.500" in shown([change]) and "from 3 undisturbed runs of each on" in shown([change])


def test_runs_on_a_busy_machine_are_left_out() -> None:
    after = rows(rates=(100.0, 50.0, 101.0, 99.5))
    after[1]["disturbed"] = "other programs used 50% of its cores"
    (change,) = changed(rows(), after)
    assert change.verdict == "no difference shown" and change.runs == (4, 3)
    assert change.rates[1] == pytest.approx(100.2, abs=0.1)
    assert "1 of 4 runs of B are left out, as the machine was busy: other programs" in shown([change])


def test_another_spec_file_or_machine_is_told_but_not_compared() -> None:
    before = rows() + rows("mirrored") + rows("horovod") + rows("fit", 1)
    after = [
        *rows(model_digest="1234"),
        *rows("mirrored", seed=9),
        *(row | {"cpu_model": "X", "cores_available": 4} for row in rows("horovod")),
        *rows("fit", 1, data_digest="77"),
    ]
    found = {(change.row["strategy"], change.why) for change in changed(before, after)}
    assert found == {
        ("ps", "the model's file was changed"),
        ("mirrored", "B has no such runs"),
        ("mirrored", "A has no such runs"),
        ("horovod", "the machines differ: an unknown CPU, 0 cores; X, 4 cores"),
        ("fit", "the data set's file was changed"),
    }
    assert {change.verdict for change in changed(before, after)} == {"not comparable"}


def test_a_row_that_no_longer_works_is_broken() -> None:
    (change,) = changed(rows(), rows(status="failed", reason="worker-1: killed"))
    assert (change.verdict, change.why) == ("broken", "worker-1: killed")
    (change,) = changed(rows(status="failed", reason="worker-1: killed"), rows())
    assert change.verdict == "mended"


def test_other_versions_are_named() -> None:
    before = [row | {"tensorflow": "2.21.0"} for row in rows()]
    (change,) = changed(before, [row | {"tensorflow": "2.22.0"} for row in rows()])
    assert change.versions == "tensorflow 2.21.0, then 2.22.0"
    settings = {"settings": "OMP_NUM_THREADS=1", "tensorflow_build": "v2.21"}
    (change,) = changed(rows(), [row | settings for row in rows()])
    # Files from before a build was kept don't say that it changed.
    assert change.versions == "settings unknown, then OMP_NUM_THREADS=1"


def test_quality_is_compared_too() -> None:
    after = [row | {"test_metric": 0.5, "metric": "accuracy"} for row in rows()]
    before = [row | {"test_metric": 0.25 + 0.001 * row["repeat"], "metric": "accuracy"} for row in rows()]
    (change,) = changed(before, after)
    assert "test accuracy differs by +0.2485" in shown([change])


def test_two_strategies_of_one_folder_are_compared_by_rounds() -> None:
    slow = (1.0, 0.5, 0.8, 0.6)
    table = [
        run(name, 2, rate * slow[r] * (1 + 0.002 * r), repeat=r, options=options)
        | {"started_at": f"2026-11-29T0{r}:0{place}:00.000+00:00"}
        for r in range(4)
        for place, (name, rate, options) in enumerate((("mirrored", 100, {}), ("ps", 90 + r / 5, {"sync": True})))
    ]
    (change,) = difference.between_strategies(pd.DataFrame(table), ("mirrored", "{}"), ("ps", '{"sync": true}'), 0.05)
    assert change.verdict == "slower" and change.rate.by_rounds and change.rate.value == pytest.approx(0.903, abs=1e-3)
    assert "mirrored → ps sync=true" in shown([change]) and "ratios of each round" in shown([change])


def test_json_is_strict_and_has_one_object_for_each_change() -> None:
    found = json.loads(showing.to_json(changed(rows() + rows("fit", 1), rows())), parse_constant=pytest.fail)
    assert [(row["strategy"], row["verdict"]) for row in found] == [
        ("fit", "not comparable"),
        ("ps", "no difference shown"),
    ]
    assert found[0]["rate_ratio"] is None and found[1]["runs_before"] == 4


@pytest.mark.parametrize("count", [3, 5, 8])
def test_an_interval_misses_the_truth_in_one_of_twenty_cases(count: int) -> None:
    chance = random.Random(count)

    def rates() -> dict[int, float]:
        return {each: math.exp(chance.gauss(0, 0.05)) for each in range(count)}

    for by_rounds in (False, True):
        missed = sum(intervals.ratio(rates(), rates(), by_rounds).excludes(1.0) for _ in range(2000)) / 2000
        # Welch's degrees of freedom make intervals of three runs a little too wide.
        assert 0.015 < missed < 0.065
    shown = intervals.repeats_for(intervals.ratio(rates(), rates(), False), count, 0.9)
    assert shown is not None and 3 <= shown < 60


def test_the_repeats_that_are_told_find_the_difference_in_nine_of_ten_cases() -> None:
    chance = random.Random(1)

    def rates(count: int, factor: float = 1.0) -> dict[int, float]:
        return {each: factor * math.exp(chance.gauss(0, 0.05)) for each in range(count)}

    count = intervals.repeats_for(intervals.ratio(rates(400), rates(400), False), 400, 0.9)
    assert count
    found = sum(intervals.ratio(rates(count, 0.9), rates(count), False).excludes(1.0) for _ in range(1000))
    assert 850 < found < 960


def test_intervals_of_equal_runs_are_points() -> None:
    ones = dict.fromkeys(range(4), 2.0)
    for rounds in (False, True):
        estimate = intervals.ratio(ones, dict.fromkeys(range(4), 1.0), rounds)
        assert (estimate.low, estimate.value, estimate.high) == (2.0, 2.0, 2.0)
    assert intervals.mean([0.5] * 3).low == 0.5 and not intervals.mean([0.5] * 2).known
    assert not intervals.ratio(ones, {}, False).known


class TestCommand:
    @pytest.fixture(autouse=True)
    def tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = {
            "a": rows() + rows("fit", 1),
            "slow": rows(rates=(80.0, 80.5, 79.5, 80.2)),
            "other": rows("mirrored"),
            "broken": rows(status="failed", reason="x"),
            "empty": [],
        }
        empty = pd.DataFrame(rows()).iloc[:0]
        monkeypatch.setattr(
            "stratbench.harness.cli.diffing.read_runs",
            lambda path: pd.DataFrame(known[path.name]) if known[path.name] else empty,
        )

    @pytest.mark.parametrize(
        "arguments, code",
        [
            (["a", "a"], 0),
            (["a", "slow"], 0),
            (["a", "slow", "--fail-if-slower", "5%"], 1),
            (["a", "slow", "--fail-if-slower", "30 %"], 0),
            (["slow", "a", "--fail-if-slower", "5%"], 0),
            (["a", "broken", "--fail-if-slower", "5%"], 1),
            (["a", "broken"], 0),
        ],
    )
    def test_the_exit_code_is_that_of_a_slow_down(self, arguments: list[str], code: int) -> None:
        result = CliRunner().invoke(cli, ["diff", *arguments], standalone_mode=False)
        assert result.exception is None and result.return_value == code and "B / A" in result.output

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["a", "other"], "A and B must have runs of the same work. Received: a and other: B has no such runs"),
            (["a", "empty"], "B has no such runs"),
            (["empty", "empty"], "there are no runs"),
            (["a"], "give two folders, or one and two strategies"),
            (["a", "-s", "fit"], "give two folders, or one and two strategies"),
            (["a", "slow", "-s", "mirrored"], "--strategy must be one that a has runs of: ps, fit"),
            (["a", "slow", "-s", "ps:sync=true"], "--strategy must be one that a has runs of"),
            (["a", "-s", "fit", "-s", "ps"], "same work. Received: fit and ps"),
        ],
    )
    def test_nothing_to_compare_is_an_error(self, arguments: list[str], message: str) -> None:
        result = CliRunner().invoke(cli, ["diff", *arguments], standalone_mode=False)
        assert isinstance(result.exception, UsageError) and message in str(result.exception)

    @pytest.mark.parametrize("text", ["5", "0%", "100%", "-3%", "nan%", "5%%", "٥%", ""])
    def test_a_share_is_a_percentage(self, text: str) -> None:
        result = CliRunner().invoke(cli, ["diff", "a", "a", "--fail-if-slower", text])
        assert result.exit_code == 2 and "give a percentage between 0% and 100%" in result.output
