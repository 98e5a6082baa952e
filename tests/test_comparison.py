import math
import statistics

import pandas as pd
import pytest
from result_rows import BUSY, compare, run
from stratbench.results.analysis import comparison as analysis


def test_strong_scaling_is_against_single_with_the_same_global_batch():
    single, two, four = compare(run("mirrored", 4, 300), run("mirrored", 2, 180), run("single"))
    assert [row["strategy"] for row in (single, two, four)] == ["single", "mirrored", "mirrored"]
    assert (single["base"], single["speedup"], single["efficiency"]) == ("single×1", 1.0, 1.0)
    assert (two["speedup"], two["efficiency"], two["scaling"]) == pytest.approx((1.8, 0.9, "strong"))
    assert (four["speedup"], four["efficiency"]) == pytest.approx((3.0, 0.75))


def test_weak_scaling_is_against_single_with_the_same_per_replica_batch():
    _, two = compare(run("single", share=32), run("ps", 2, 150, share=32))
    assert (two["base"], two["speedup"], two["efficiency"], two["scaling"]) == ("single×1", 1.5, 0.75, "weak")


def test_the_same_global_batch_goes_before_the_same_share():
    rows = compare(run("single", rate=100, share=32), run("single", rate=200, share=64), run("ps", 2, 300, share=32))
    assert (rows[-1]["speedup"], rows[-1]["scaling"]) == (1.5, "strong")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "mlp"},
        {"dataset": "x"},
        {"split": "x"},
        {"last_batch": "keep"},
        {"sharding": "static"},
        {"optimizer": "adam"},
        {"cores_per_replica": 2},
    ],
)
def test_a_base_does_the_same_work(change):
    row = compare(run("single", **change), run("ps", 2, 150))[-1]
    assert row["base"] == "ps×2"


@pytest.mark.parametrize("share", [None, 16])
def test_without_single_the_smallest_of_the_same_strategy_is_the_base(share):
    rows = compare(
        run("single", status="failed", reason="x", share=share or 64),
        run("ps", 1, status="timeout", reason="x", share=share),
        run("ps", 2, 100, share=share),
        run("ps", 4, 150, share=share),
        run("ps", 4, 100, share=share, options={"sync": True}),
    )
    by_name = {(row["strategy"], row["options"], row["replicas"]): row for row in rows}
    four, two = by_name["ps", "{}", 4], by_name["ps", "{}", 2]
    assert (four["base"], four["base_replicas"], four["speedup"], four["efficiency"]) == (
        "ps×2",
        2,
        1.5,
        0.75,
    )
    assert (two["base"], two["speedup"]) == ("ps×2", 1.0)
    assert by_name["ps", '{"sync": true}', 4]["base"] == "ps×4"


def test_among_bases_the_most_alike_is_taken():
    rows = compare(run("single", rate=50, seed=2), run("single", rate=100, seed=1), run("ps", 2, 150, seed=1))
    assert rows[-1]["speedup"] == 1.5


def test_without_any_base_speedups_are_missing():
    (row,) = compare(run("ps", 2, status="skipped", reason="no GPU"))
    assert row["base"] == "" and math.isnan(row["speedup"]) and math.isnan(row["efficiency"])
    assert (row["status"], row["reason"], row["ok"], row["repeats"]) == ("skipped", "no GPU", 0, 1)


def test_repeats_are_put_together():
    rates = [100.0, 140.0, 110.0]
    rows = [run("ps", 2, rate, repeat=repeat) for repeat, rate in enumerate(rates)]
    rows.append(run("ps", 2, status="failed", reason="worker-1: killed", repeat=3))
    (row,) = compare(*rows)
    assert (row["repeats"], row["ok"], row["status"], row["reason"]) == (4, 3, "failed", "worker-1: killed")
    assert row["examples_per_second"] == pytest.approx((100 * 140 * 110) ** (1 / 3))
    # Student's t with two degrees of freedom is 4.3027.
    logs = [math.log(rate) for rate in rates]
    reach = 4.3027 * statistics.stdev(logs) / math.sqrt(3)
    middle = statistics.fmean(logs)
    expected = [math.exp(middle - reach), math.exp(middle + reach)]
    assert [row["examples_per_second_low"], row["examples_per_second_high"]] == pytest.approx(expected, rel=1e-4)


def test_no_runs_give_an_empty_comparison():
    empty = analysis.compare(pd.DataFrame([run("single")]).iloc[:0])
    assert len(empty) == 0 and "speedup" in empty


def test_a_run_too_short_for_a_rate_has_no_speedup():
    (row,) = compare(run("single", rate=math.nan))
    assert row["status"] == "ok" and row["base"] == "" and math.isnan(row["speedup"])


def test_a_comparison_tells_what_its_figures_rest_on():
    rows = [run("single", repeat=r) | {"disturbed": BUSY if r else ""} for r in range(3)]
    rows += [run("ps", 2), run("ps", 2, status="failed", reason="x", repeat=1) | {"disturbed": BUSY}]
    single, ps = compare(*rows)
    assert (single["ok"], single["disturbed_runs"], single["disturbed"], single["is_base"]) == (3, 2, BUSY, True)
    assert (ps["ok"], ps["disturbed_runs"], ps["disturbed"], ps["is_base"]) == (1, 0, "", False)
    assert (ps["base_ok"], ps["base_disturbed"]) == (3, BUSY)
    (alone,) = compare(run("ps", 2, status="skipped", reason="x"))
    assert (alone["base_ok"], alone["base_disturbed"], alone["is_base"]) == (0, "", False)


def test_parts_of_a_model_are_no_parts_of_the_data():
    (row,) = compare(run("pipeline", 4, options={"parts": 2}, sharding="static"))
    assert row["parts"] == 4


def test_runs_from_before_one_could_choose_dropped_the_last_batch():
    rows = compare(run("single"), run("mirrored", 2, 150, last_batch="drop"))
    assert [(row["base"], row["last_batch"]) for row in rows] == [("single×1", "drop")] * 2


def test_a_container_s_limit_makes_another_machine():
    old = run("single", cores_available=4) | {"cpu_limit_cores": float("nan")}
    rows = compare(old, run("ps", 2, 150, cores_available=4, cpu_limit_cores=4.0))
    assert [row["speedup"] for row in rows] == [1.0, 1.5]
    rows = compare(old, run("ps", 2, 150, cores_available=4, cpu_limit_cores=1.5))
    assert [row["base"] for row in rows] == ["single×1", "ps×2"]


def test_runs_from_before_the_limit_was_kept_are_repeats_of_one_another():
    rows = compare(*(run("single", repeat=repeat) | {"cpu_limit_cores": float("nan")} for repeat in range(3)))
    assert [row["ok"] for row in rows] == [3]
