import io
import json
import math
import sys

import pandas as pd
import pytest
import stratbench.results
from stored_results import assert_csv_follows, edited
from stratbench.harness.plan.references import variant
from stratbench.results import schema
from stratbench.results.raw import journal, record
from stratbench.results.showing import terminal
from stratbench.results.tables import csv_tables, store
from stratbench.strategies import registry
from test_results_record import STARTED, array, assert_equal, make_log, make_record, make_spec

# (step, update, fetched, staleness, clock, slowest_clock, blocked_seconds, applied)
FIRST = [(0, 0, 0, 0, 0, 0, 0.0, True), (1, 2, 1, 1, 1, 0, 0.25, True), (2, 4, 3, 1, 2, 1, 0.5, True)]
SECOND = [(0, 1, 0, 1, 0, 0, 0.0, True), (1, 3, 1, 2, 1, 1, 0.0, False), (2, 3, 3, 0, 2, math.nan, 0.0, True)]

MEMORY = {"weights_bytes": 400, "optimizer_bytes": 800, "transient_bytes": None}


def make_worker(index, pushed=(), traffic=((100, 50), (60, 40)), **arguments):
    """Two epochs of two steps, each with (sent, received) bytes; of 70 bytes a step that were expected."""
    log = make_log(index, **arguments)
    log.updates = array(list(pushed), journal.UPDATE_FIELDS)
    log.ready |= {"traffic_bytes": 70.0, "memory": MEMORY, "activation_bytes": 1000}
    for event, (sent, received) in zip(log.epochs, traffic, strict=True):
        event |= {"steps": 2, "sent_bytes": sent, "received_bytes": received}
    log.end |= {"cpu_seconds": 2.5, "sent_bytes": 200, "received_bytes": 100}
    return log


def make_server(index, weights_bytes):
    log = make_worker(index, role="ps", step_seconds=())
    log.start["replicas"] = 0
    log.serving = {"time": STARTED, "memory": {**MEMORY, "weights_bytes": weights_bytes, "transient_bytes": 7}}
    log.ready, log.epochs, log.evaluations = None, [], []
    return log


def asynchronous():
    logs = [make_server(0, 300), make_server(1, 100), make_worker(0, FIRST), make_worker(1, SECOND)]
    return make_record(make_spec(strategy="ps", last_batch="keep"), logs=logs)


def test_updates_are_counted_and_only_applied_ones_are_stale():
    built = asynchronous()
    names = ("updates_applied", "updates_dropped", "staleness_mean", "staleness_max", "blocked_seconds")
    assert [built.run[name] for name in names] == [5, 1, 0.6, 1, 0.75]
    assert [[row[name] for name in ("role", "task", "staleness", "updates")] for row in built.staleness] == [
        ["worker", 0, 0, 1],
        ["worker", 0, 1, 2],
        ["worker", 1, 0, 1],
        ["worker", 1, 1, 1],
    ]
    counted = [[row[name] for name in ("updates_applied", "updates_dropped", "blocked_seconds")] for row in built.tasks]
    assert counted[2:] == [[3, 0, 0.75], [2, 1, 0]] and all(map(math.isnan, counted[0] + counted[1]))
    assert built.updates["update"].tolist() == [0, 2, 4, 1, 3, 3]
    assert built.updates["task"].tolist() == [0, 0, 0, 1, 1, 1] and set(built.updates["role"]) == {"worker"}


def test_where_no_update_was_counted_the_figures_are_missing():
    built = make_record(logs=[make_worker(0), make_worker(1)])
    names = ("updates_applied", "updates_dropped", "staleness_mean", "staleness_max", "blocked_seconds")
    assert all(math.isnan(built.run[name]) for name in names) and not built.staleness


def test_where_all_updates_were_dropped_there_is_no_staleness():
    run = make_record(logs=[make_worker(0, SECOND[1:2])]).run
    assert (run["updates_applied"], run["updates_dropped"]) == (0, 1) and math.isnan(run["staleness_mean"])


def traffic(built):
    rows = [*built.epochs, built.run]
    return [[row[f"traffic_bytes_{kind}"] for row in rows] for kind in ("expected", "measured")]


def test_traffic_is_that_of_all_workers_by_epoch_and_added_up():
    assert traffic(asynchronous()) == [[140, 140, 280], [300, 200, 500]]


def test_traffic_of_one_worker_unknown_is_that_of_all_unknown():
    logs = [make_worker(0), make_worker(1, traffic=((100, 50), (None, None)))]
    expected, measured = traffic(make_record(logs=logs))
    assert expected == [140, 140, 280]
    assert measured[0] == 300 and math.isnan(measured[1]) and math.isnan(measured[2])


@pytest.mark.parametrize("start", [True, False])
def test_traffic_is_of_epochs_that_every_worker_ended(start):
    logs = [make_worker(0), make_worker(1)]
    logs[1].epochs.pop()
    if not start:
        logs[1].start, logs[1].epochs = None, []
    for values, known in zip(traffic(make_record(logs=logs)), (140, 300), strict=True):
        assert values == pytest.approx([known, math.nan, math.nan] if start else [math.nan] * 3, nan_ok=True)


def test_tasks_tell_what_they_held_and_used():
    built = asynchronous()
    held = {name: [None if math.isnan(row[name]) else row[name] for row in built.tasks] for name in LATER["tasks"][:7]}
    assert held == {
        "weights_bytes": [300, 100, 400, 400],
        "optimizer_bytes": [800] * 4,
        "transient_bytes": [7, 7, None, None],
        "activation_bytes": [None, None, 1000, 1000],
        "sent_bytes": [200] * 4,
        "received_bytes": [100] * 4,
        "cpu_seconds": [2.5] * 4,
    }


def test_journals_from_before_these_figures_give_missing_ones(tmp_path):
    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    writer.event("start", pid=1, host="here", role="worker", index=0, rank=0, cores=[0], replicas=1)
    writer.event("ready", parameters=10, versions={}, memory=None)
    writer.step(0, 0, 0.5, 0.1, 32, 2.0, False, now=1.0)
    writer.event("epoch", epoch=0, seconds=0.5)
    writer.event("end", peak_rss_bytes=1000)
    writer.close()
    built = make_record(logs=[journal.read(tmp_path / "worker-0.jsonl")])
    assert all(math.isnan(value) for values in traffic(built) for value in values)
    assert math.isnan(built.tasks[0]["weights_bytes"]) and math.isnan(built.tasks[0]["sent_bytes"])
    assert built.tasks[0]["peak_rss_bytes"] == 1000 and built.run["last_batch"] == ""


def test_a_journal_keeps_updates_beside_steps(tmp_path):
    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    for row in SECOND:
        writer.update(*row)
        writer.step(0, row[0], 0.5, 0.1, 32, 2.0, False, now=float(row[0]))
    writer.close()
    log = journal.read(tmp_path / "worker-0.jsonl")
    assert log.updates["staleness"].tolist() == [1, 2, 0] and len(log.steps) == 3
    assert math.isnan(log.updates["slowest_clock"][2]) and log.updates["applied"].tolist() == [True, False, True]


def test_all_of_it_survives_the_record_and_the_tables(tmp_path):
    built = asynchronous()
    built.save(tmp_path / "record.json")
    json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)
    again = record.Record.load(tmp_path / "record.json")
    assert_equal(built, again)
    with store.Store(tmp_path) as opened:
        opened.add(make_record())
        opened.add(again)
        opened.add(again)
    tables = assert_csv_follows(tmp_path)
    assert len(tables.updates) == 6 and len(tables.staleness) == 4
    assert tables.updates.applied.dtype == bool and tables.updates.slowest_clock.isna().sum() == 1
    assert tables.runs.traffic_bytes_measured.isna().tolist() == [True, False]
    assert tables.runs.last_batch.tolist() == ["", "keep"]


TRAFFIC = ("traffic_bytes_expected", "traffic_bytes_measured")
UPDATES = ("updates_applied", "updates_dropped", "blocked_seconds")
HELD = ("weights_bytes", "optimizer_bytes", "transient_bytes", "activation_bytes")
LATER = {
    "runs": ("last_batch", "lr_schedule", *UPDATES, "staleness_mean", "staleness_max", *TRAFFIC),
    "epochs": TRAFFIC,
    "tasks": (*HELD, "sent_bytes", "received_bytes", "cpu_seconds", *UPDATES),
}


def test_results_from_before_these_tables_and_columns_are_shown_and_extended(tmp_path, capsys):
    with store.Store(tmp_path) as opened:
        opened.add(make_record())
    with edited(tmp_path / "results.h5") as file:
        del file["updates"], file["staleness"]
        for table, names in LATER.items():
            for name in names:
                del file[table][name]
    for name in ("updates", "staleness"):
        (tmp_path / csv_tables.name(name)).unlink()
    older = stratbench.results.load(tmp_path)
    assert older.updates.empty and older.staleness.empty and list(older.updates)[3:] == list(journal.UPDATE_FIELDS)
    assert older.runs.traffic_bytes_measured.isna().all() and older.tasks.weights_bytes.isna().all()
    terminal.render(older.runs, terminal.make_console(sys.stdout))
    assert "MB" not in capsys.readouterr().out
    with store.Store(tmp_path) as opened:
        opened.add(asynchronous())
    tables = assert_csv_follows(tmp_path)
    assert len(tables.updates) == 6 and tables.runs.updates_applied.fillna(-1).tolist() == [-1, 5]


def test_a_record_from_before_these_tables_is_read(tmp_path):
    path = tmp_path / "record.json"
    built = make_record()
    built.save(path)
    content = json.loads(path.read_text())
    del content["updates"], content["staleness"]
    for name in LATER["runs"]:
        del content["run"][name]
    path.write_text(json.dumps(content))
    assert_equal(record.Record.load(path), built)


def test_every_update_field_is_a_column():
    assert [column.name for column in schema.TABLES["updates"]][3:] == list(journal.UPDATE_FIELDS)


@pytest.mark.parametrize(
    ("reduced", "seconds", "algbw", "busbw"),
    [
        (1e6, 0.05, 2e7, 2e7),
        # Nothing that is a sum over all, or it is not known how much; no exchange that was not hidden.
        (0.0, 0.05, math.nan, math.nan),
        (None, 0.05, math.nan, math.nan),
        (1e6, 0.0, math.nan, math.nan),
        (1e6, math.nan, math.nan, math.nan),
    ],
)
def test_bandwidths_are_those_of_nccl_tests(reduced, seconds, algbw, busbw):
    logs = [make_worker(0), make_worker(1)]
    for log in logs:
        log.ready["reduced_bytes"] = reduced
        log.steps["communicating_seconds"] = [9.0, *[seconds] * 3]
    run = make_record(logs=logs).run
    found = [run[f"{name}_bytes_per_second"] for name in ("algbw", "busbw")]
    assert found == pytest.approx([algbw, busbw], nan_ok=True)


def test_more_replicas_have_a_higher_busbw_and_one_has_none():
    logs = [make_worker(index) for index in range(4)]
    for log in logs:
        log.ready["reduced_bytes"] = 1e6
        log.steps["communicating_seconds"] = 0.1
    run = make_record(logs=logs).run
    assert run["busbw_bytes_per_second"] == pytest.approx(1.5 * run["algbw_bytes_per_second"]) == pytest.approx(1.5e7)
    assert math.isnan(make_record(logs=logs[:1]).run["busbw_bytes_per_second"])


@pytest.mark.parametrize("name", ["horovod", "horovod:compression=fp16", "multiworker", "local-sgd:period=4", "fsdp"])
def test_what_a_ring_reduces_is_what_it_sends(name):
    strategy = registry.create(*variant(name, {}))
    assert strategy.traffic_bytes(1000, 4, 2) == pytest.approx(4 * 3 * 1000 * strategy.reduced(2))


def test_the_busbw_is_told_below_the_table():
    row = make_record().run
    stream = io.StringIO()
    terminal.render(pd.DataFrame([row | {"busbw_bytes_per_second": 1.5e8}]), terminal.make_console(stream))
    assert "horovod ×2: busbw 150 MB/s" in stream.getvalue()
