"""Equal work: which examples were in which step, from the batches to what `show` and `diff` keep apart."""

import json
import math
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call
from dataset_helpers import Table, windows_of
from result_rows import compare, run, text
from stratbench.datasets.batches import Batches
from stratbench.harness.worker import first_update
from stratbench.results.analysis import difference
from stratbench.results.raw import equal_work
from test_results_record import make_log, make_record

THROW_AWAY = Path(__file__).parent / "throw_away"
ROWS = np.random.default_rng(0).permutation(100)[:80]


def told(shards=1, shard=0, count=1, number=0, steps=None, seed=5, **settings):
    work = {"global_batch": 12, "seed": seed, "shards": shards, "shard": shard, "count": count}
    batches = Batches(Table(), ROWS, **work | settings)
    for _ in islice(batches.epoch(number), steps):
        pass
    return batches.order.told()


def of_run(reads, counted=None, epoch=0):
    """The columns for tasks that read these in an epoch, and count examples unless ``counted`` says other."""
    logs = [make_log(index) for index in range(len(reads))]
    for log, read, counts in zip(logs, reads, counted or [True] * len(reads), strict=True):
        log.epochs = [{"epoch": epoch, "seconds": 1.0, "time": 0.0, "read": read}]
        log.steps["epoch"] = epoch
        log.steps["examples"] = 32 * counts
    return equal_work.run(logs, logs[0])


class TestOrder:
    @pytest.mark.parametrize("window_rows", [1000, 24])
    @pytest.mark.parametrize("shards", [2, 3])
    @pytest.mark.parametrize("settings", [{}, {"last": "keep"}, {"last": "keep", "sharding": "static"}])
    def test_that_of_all_processes_is_that_of_one(self, monkeypatch, window_rows, shards, settings):
        windows_of(monkeypatch, window_rows)
        static = "sharding" in settings
        whole = told(shards, 0, shards, **settings) if static else told(**settings)
        parts = of_run([told(shards, shard, **settings) for shard in range(shards)])
        assert parts["data_order"] == whole["digest"]
        assert parts["examples_read"] == parts["first_epoch_distinct"] == whole["examples"]

    def test_others_differ(self):
        same = [told(), told()]
        others = [told(seed=6), told(number=4), told(steps=5), told(sharding="static", shards=2, count=2)]
        assert len({each["digest"] for each in same}) == 1
        assert len({each["digest"] for each in same + others}) == 5

    def test_the_same_rows_in_other_steps_differ(self):
        """Of one epoch of two steps, exchanged."""
        first = Batches(Table(), ROWS[:24], global_batch=12, seed=0)
        second = Batches(Table(), ROWS[:24], global_batch=12, seed=0)
        rows = [batch[0][:, 0] for batch in first.epoch(0)]
        for _ in second.epoch(0):
            break
        other = type(second.order)(0, 100)
        for each in reversed(rows):
            other.note(each.astype(np.int64))
        assert first.order.told()["digest"] != other.told()["digest"]

    def test_an_epoch_that_is_read_anew_counts_once(self):
        batches = Batches(Table(), ROWS, global_batch=12, seed=5)
        for steps in (1, 3):
            for _ in islice(batches.epoch(0), steps):
                pass
        assert batches.order.told() == told(steps=3)

    def test_many_rows_are_put_together_meanwhile(self, monkeypatch):
        monkeypatch.setattr("stratbench.datasets._arrays.order._PENDING_ROWS", 30)
        assert told() == told()
        found = told()
        monkeypatch.undo()
        assert found == told()


class TestOfARun:
    def test_a_part_that_two_read_is_seen(self):
        found = of_run([told(2, 0), told(2, 0)])
        assert (found["first_epoch_examples"], found["first_epoch_distinct"]) == (72, 36)
        assert found["data_order"] != told()["digest"]

    def test_tasks_that_compute_one_replica_together_read_its_examples_once(self):
        found = of_run([told(), told()], counted=[True, False])
        assert found["data_order"] == told()["digest"] and found["examples_read"] == 72

    def test_a_task_that_was_started_again_counts_once(self):
        log = make_log(0)
        log.steps["epoch"] = 0
        event = {"epoch": 0, "seconds": 1.0, "time": 0.0, "read": told()}
        log.epochs = [event | {"read": told(steps=2)}, event]
        assert equal_work.run([log], log)["data_order"] == told()["digest"]

    def test_rows_of_large_data_are_not_kept(self, monkeypatch):
        monkeypatch.setattr("stratbench.datasets._arrays.order._MOST_ROWS", 99)
        assert "seen" not in told()
        assert math.isnan(of_run([told()])["first_epoch_distinct"])

    def test_later_epochs_alone_tell_nothing_of_the_first(self):
        found = of_run([told()], epoch=1)
        assert found["data_order"] == told()["digest"] and math.isnan(found["first_epoch_examples"])

    def test_journals_of_older_versions_tell_nothing(self):
        row = make_record().run
        assert (row["data_order"], row["initial_weights"]) == ("", "")
        assert math.isnan(row["examples_read"])


def work(strategy="ps", replicas=2, order="aa", weights="11", read=60.0, distinct=60.0, planned=60.0, **changes):
    found = run(strategy, replicas, **changes)
    return found | {
        "data_order": order,
        "initial_weights": weights,
        "examples_planned": planned,
        "examples_read": read,
        "first_epoch_examples": read,
        "first_epoch_distinct": distinct,
    }


class TestApart:
    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"order": "bb"}, "other examples in its steps"),
            ({"weights": "22"}, "other weights at the start"),
            ({"order": "bb", "weights": "22"}, "other weights at the start, other examples in its steps"),
            ({"distinct": 30.0, "order": ""}, "30 examples read again within an epoch"),
        ],
    )
    def test_a_row_of_other_work_has_no_base_and_a_table_of_its_own(self, other, reason):
        rows = [work("single", 1), work(), work("mirrored", **other)]
        single, mirrored, ps = compare(*rows)
        assert (single["apart"], ps["apart"], mirrored["apart"]) == ("", "", reason)
        assert ps["base"] == "single×1" and mirrored["base"] == "mirrored×2" and mirrored["is_base"]
        output = text(*rows)
        assert f"apart, as it had {reason}" in " ".join(output.split())

    def test_single_tells_what_the_others_were_to_do(self):
        rows = [work("single", 1, "aa"), work("ps", 2, "bb"), work("mirrored", 2, "bb")]
        assert [row["apart"] != "" for row in compare(*rows)] == [False, True, True]

    def test_without_it_most_do(self):
        rows = [work("fsdp", 2, "aa"), work("ps", 2, "bb"), work("mirrored", 2, "bb")]
        assert {row["strategy"]: row["apart"] != "" for row in compare(*rows)} == {
            "fsdp": True,
            "ps": False,
            "mirrored": False,
        }

    def test_one_that_repeats_examples_is_apart_also_where_no_row_was_to_do_the_same(self):
        """Its base would be that of weak scaling."""
        rows = [work("single", 1, batch=32), work("mirrored", 2, batch=64, distinct=30.0)]
        single, mirrored = compare(*rows)
        assert (single["apart"], mirrored["apart"]) == ("", "30 examples read again within an epoch")
        assert mirrored["base"] == "mirrored×2"

    def test_one_that_repeats_examples_does_not_tell(self):
        rows = [work("single", 1, "aa", distinct=30.0), work("ps", 2, "bb"), work("mirrored", 2, "bb")]
        assert [row["apart"] != "" for row in compare(*rows)] == [True, False, False]

    @pytest.mark.parametrize(
        "other", [{"read": 40.0, "distinct": 40.0, "order": "bb"}, {"order": ""}, {"batch": 32, "order": "bb"}]
    )
    def test_what_read_less_is_not_known_or_was_to_differ_is_not_apart(self, other):
        rows = [work("single", 1), work("mirrored", **other)]
        assert {row["apart"] for row in compare(*rows)} == {""}

    def test_initial_values_on_gpus_may_be_rounded_in_other_ways(self):
        rows = [work("single", 1), work("mirrored", weights="22")]
        rows = [each | {"gpus": "H200"} for each in rows]
        assert {row["apart"] for row in compare(*rows)} == {""}

    def test_that_the_work_was_equal_is_told(self):
        rows = [work("single", 1), work(), work("mirrored", read=40.0, distinct=40.0, order="bb")]
        output = " ".join(text(*rows).split())
        claim = "began with the same weights and had the same examples in each step"
        assert f"checked: all but mirrored ×2 {claim}" in output
        assert f"checked: all {claim}" in " ".join(text(*rows[:2]).split())
        assert "checked" not in text(run("single", 1), run("ps", 2))

    def test_another_first_update_is_told_with_the_row_that_has_the_mean_gradient(self):
        rows = [work("single", 1), work("mirrored"), work("ps"), work("fsdp"), work("horovod", batch=32)]
        updates = [2.0, 2.05, 3.0, math.nan, 9.0]
        output = " ".join(
            text(*(row | {"first_update": each} for row, each in zip(rows, updates, strict=True))).split()
        )
        assert "the first update differs from that of single ×1: ps ×2 by 50%; good reasons" in output
        assert output.count("first update") == 1

    def test_equal_first_updates_are_not_told(self):
        rows = [row | {"first_update": 2.0} for row in (work("single", 1), work("mirrored"))]
        assert "first update" not in text(*rows)

    def test_a_first_update_is_put_together_from_the_tasks_that_hold_the_weights(self):
        logs = [make_log(0), make_log(1)]
        logs[0].ready["initial_sums"] = [1.0, 0.0, 2.0]
        logs[0].updated, logs[1].updated = {"sums": [4.0, 0.0, None]}, {"sums": [4.0, 0.0, 6.0]}
        assert equal_work.run(logs, logs[0])["first_update"] == 5.0
        logs[1].updated = None
        assert math.isnan(equal_work.run(logs, logs[0])["first_update"])

    def test_sums_are_of_trained_weights(self):
        weights = [np.array([[1.0, 2.0], [4.0, 8.0]], "float32"), np.ones(3), None]
        assert first_update.sums(weights, [True, False, True]) == [1 - 2 + 4 - 8, 0.0, None]

    def test_diff_does_not_compare_other_work(self):
        before, after = ([work(order=order, repeat=at) for at in range(3)] for order in ("aa", "bb"))
        (change,) = difference.between_folders(pd.DataFrame(before), pd.DataFrame(after), 0.05)
        assert (change.verdict, change.why) == ("not comparable", "other examples in its steps")
        (change,) = difference.between_folders(pd.DataFrame(before), pd.DataFrame(before), 0.05)
        assert change.verdict == "no difference shown"


@pytest.mark.slow
def test_a_strategy_that_repeats_a_part_is_kept_apart(tmp_path, monkeypatch, capsys):
    """Also its repeats: no flag puts it beside the others."""
    monkeypatch.syspath_prepend(THROW_AWAY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(THROW_AWAY), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    from repeats import Repeats
    from stratbench.strategies import registry

    monkeypatch.setitem(registry.available(), Repeats.name, Repeats)
    strategies = ["-s", "single", "-s", "multiworker", "-s", "repeats", "-n", "2"]
    work = ["--model", "mlp", "--dataset", "synthetic", "--global-batch", "32", "--steps", "8"]
    assert call("compare", *strategies, *work, "--output", str(tmp_path)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "apart, as it had other examples in its steps, 128 examples read again within an epoch" in output
    assert "checked: all began with the same weights and had the same examples in each step" in output
    assert call("report", str(tmp_path), "--json") == 0
    rows = {row["strategy"]: row for each in json.loads(capsys.readouterr().out) for row in each["rows"]}
    assert rows["multiworker"]["base"] == "single×1" and rows["repeats"]["base"] == "repeats×2"
    updates = {name: row["first_update"] for name, row in rows.items()}
    assert updates["multiworker"] == pytest.approx(updates["single"], rel=1e-3)
    assert abs(updates["repeats"] / updates["single"] - 1) > 0.05
    assert rows["repeats"]["initial_weights"] == rows["single"]["initial_weights"] != ""
    assert rows["repeats"]["examples_repeated"] == 128 and rows["multiworker"]["examples_repeated"] == 0
    assert call("diff", str(tmp_path), "-s", "multiworker", "-s", "repeats") == 2
    assert "128 examples read again within an epoch" in " ".join(capsys.readouterr().out.split())
