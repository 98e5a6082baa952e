import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from stratbench.errors import ResultsError
from stratbench.results import schema
from stratbench.results.raw import environment, journal, record

STARTED = 1_700_000_000.0


def make_spec(**changes):
    spec = {
        "strategy": "horovod",
        "replicas": 2,
        "model": "cnn",
        "dataset": "digits",
        "split": "80/10/10",
        "sharding": "global",
        "global_batch": 64,
        "per_replica_batch": 32,
        "epochs": 2,
        "steps": None,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "lr_scaling": "none",
        "reference_batch": None,
        "warmup_epochs": 0,
        "seed": 1,
        "cores_per_replica": 1,
        "options": {},
        "repeat": 1,
        "timeout": 600,
    }
    return spec | changes


def array(rows, fields):
    return np.array(rows, dtype=list(fields.items()))


NO_UPDATES = array([], journal.UPDATE_FIELDS)


def make_log(index=0, step_seconds=(9.0, 0.1, 0.1, 0.1), examples=32, role="worker", losses=(4.0, 3.0, 2.0, 1.0)):
    """Two epochs of two steps; the first step is warm-up."""
    rows = [
        (1 + i // 2, i, seconds, 0.01, examples, losses[i], i == 0, *journal.UNKNOWN)
        for i, seconds in enumerate(step_seconds)
    ]
    log = journal.TaskLog(f"{role}-{index}", steps=array(rows, journal.STEP_FIELDS), updates=NO_UPDATES)
    log.start = {
        "pid": 7,
        "host": "a",
        "role": role,
        "index": index,
        "rank": index,
        "cores": [index],
        "replicas": 1,
    }
    log.ready = {"time": STARTED + 5, "parameters": 100, "versions": {"tensorflow": "2.99"}}
    log.epochs = [
        {"epoch": 1, "seconds": 9.2, "time": STARTED + 15},
        {"epoch": 2, "seconds": 0.3, "time": STARTED + 20},
    ]
    log.evaluations = [
        {"epoch": 1, "step": 2, "time": STARTED + 16, "validation": {"loss": 2.0, "accuracy": 0.25}},
        {
            "epoch": 2,
            "step": 4,
            "time": STARTED + 22,
            "validation": {"loss": 1.0, "accuracy": 0.5},
            "test": {"loss": 1.5, "accuracy": 0.4},
        },
    ]
    log.end = {"time": STARTED + 23, "peak_rss_bytes": 1000 + index}
    return log


def make_record(spec=None, status="ok", reason="", logs=None, started=STARTED, **arguments):
    spec = spec or make_spec()
    if logs is None:
        logs = [make_log(0), make_log(1)] if status == "ok" else []
    return record.build(
        **{
            "spec": spec,
            "run_id": record.run_id(spec),
            "status": status,
            "reason": reason,
            "logs": logs,
            "outcomes": {log.label: "ended" for log in logs},
            "started": started,
            "finished": started + 25,
            "environment": {"host": "a", "cores_available": 4, "tensorflow": "2.0"},
            **arguments,
        }
    )


def test_run_id_is_pinned():
    assert record.run_id(make_spec()) == "horovod-n2-7751d84f11-r1"


def test_run_id_leaves_out_repeat_timeout_and_the_order_of_keys():
    spec = make_spec()
    shuffled = dict(reversed(spec.items())) | {"timeout": 1, "repeat": 2}
    assert record.run_id(shuffled) == record.run_id(spec).removesuffix("1") + "2"
    assert record.run_id(make_spec(seed=2)) != record.run_id(spec)


def test_rates_are_summed_over_tasks_with_unequal_rates():
    fast, slow = make_log(0, (9.0, 0.1, 0.1, 0.1)), make_log(1, (9.0, 0.4, 0.4, 0.4))
    built = make_record(logs=[fast, slow])
    assert built.run["examples_per_second"] == pytest.approx(320 + 80)
    assert [row["examples_per_second"] for row in built.tasks] == pytest.approx([320, 80])
    assert [row["examples_per_second"] for row in built.epochs] == pytest.approx([400, 400])
    assert built.run["step_seconds_median"] == pytest.approx(0.25)
    assert built.run["step_seconds_max"] == 0.4 and built.run["step_seconds_min"] == 0.1


def test_warmup_is_kept_in_steps_and_left_out_of_rates():
    built = make_record()
    assert built.run["step_seconds_max"] == 0.1
    assert built.run["first_step_seconds"] == 9.0
    assert built.run["tracing_seconds"] == pytest.approx(8.9)
    assert built.steps["warmup"].tolist() == [True, False, False, False] * 2
    assert built.steps["step_seconds"].max() == 9.0
    assert built.tasks[0]["examples"] == 96 and built.tasks[0]["measured_seconds"] == pytest.approx(0.3)
    assert built.run["examples_done"] == 256 and built.run["steps_done"] == 4


def test_losses_are_weighted_by_examples():
    built = make_record(logs=[make_log(0, examples=30), make_log(1, examples=10, losses=(0.0, 0.0, 6.0, 5.0))])
    assert built.epochs[1]["train_loss"] == pytest.approx((30 * 1.5 + 10 * 5.5) / 40)
    assert built.run["final_loss"] == built.epochs[1]["train_loss"]
    assert built.epochs[0]["train_loss"] == pytest.approx(30 * 3.5 / 40)


def test_times_come_from_rank_zero():
    run = make_record(logs=[make_log(1), make_log(0)]).run
    assert run["startup_seconds"] == 5 and run["train_seconds"] == 9.5 and run["total_seconds"] == 25
    assert run["evaluation_seconds"] == 3
    assert (run["validation_accuracy"], run["test_accuracy"]) == (0.5, 0.4)
    assert run["started_at"] == "2023-11-14T22:13:20.000+00:00"
    assert (run["peak_rss_bytes"], run["peak_rss_bytes_total"], run["tasks"]) == (1001, 2001, 2)
    assert run["tensorflow"] == "2.99"


def test_a_run_without_measured_steps_has_no_rate():
    run = make_record(logs=[make_log(step_seconds=(9.0,))]).run
    assert math.isnan(run["examples_per_second"]) and math.isnan(run["step_seconds_p99"])
    assert run["first_step_seconds"] == 9.0


def test_a_parameter_server_has_no_rate_and_reports_nothing_for_the_run():
    server = journal.TaskLog("ps-0", steps=array([], journal.STEP_FIELDS), updates=NO_UPDATES)
    server.start = {"pid": 1, "host": "a", "role": "ps", "index": 0, "rank": 0, "cores": [0], "replicas": 0}
    built = make_record(logs=[server, make_log(0)], outcomes={"ps-0": "killed by SIGTERM", "worker-1": "never came"})
    assert [(row["role"], row["task"], row["outcome"]) for row in built.tasks] == [
        ("ps", 0, "killed by SIGTERM"),
        ("worker", 0, "ended"),
        ("worker", 1, "never came"),
    ]
    assert built.run["examples_per_second"] == pytest.approx(320) and built.run["steps_done"] == 4
    assert math.isnan(built.tasks[0]["examples_per_second"]) and math.isnan(built.tasks[2]["pid"])


@pytest.mark.parametrize("cores, expected", [(([0], [1]), False), (([0, 1], [0, 1]), False), (([0], [0]), True)])
def test_oversubscribed(cores, expected):
    logs = [make_log(0), make_log(1)]
    for log, own in zip(logs, cores, strict=True):
        log.start["cores"] = own
    assert make_record(logs=logs).run["oversubscribed"] is expected


@pytest.mark.parametrize("status", schema.STATUSES)
def test_a_row_has_every_column_whatever_happened(status):
    built = make_record(status=status, reason="two\nlines")
    assert list(built.run) == [column.name for column in schema.TABLES["runs"]]
    assert built.run["reason"] == "two lines" and json.loads(built.run["spec"]) == make_spec()
    assert built.run["warmup_epochs"] == 0.0 and math.isnan(built.run["steps"])
    for row in built.epochs:
        assert list(row) == [column.name for column in schema.TABLES["epochs"]]


def test_unknown_columns_and_statuses_are_refused():
    with pytest.raises(ValueError, match="columns of 'epochs'"):
        schema.row("epochs", {"epoche": 1})
    with pytest.raises(ValueError, match="status must be one of"):
        make_record(status="fine")


def assert_equal(one, other):
    for table in schema.TABLES:
        mine, others = one.columns(table), other.columns(table)
        assert list(mine) == list(others) and equal(mine.values(), others.values()), table


def equal(one, other):
    return all(np.array_equal(a, b, equal_nan=a.dtype == float) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("status", ["ok", "skipped"])
def test_record_round_trip(tmp_path, status):
    built = make_record(status=status, logs=[make_log(losses=(math.nan, math.inf, 2.0, 1.0))] if status == "ok" else [])
    built.save(tmp_path / "record.json")
    again = record.Record.load(tmp_path / "record.json")
    assert_equal(built, again)
    # Strict JSON, so that any program can read it.
    json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)


def test_a_full_disk_leaves_the_former_record(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    make_record().save(path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResultsError, match="No space left on device"):
        make_record(status="failed", reason="x").save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": "x"}', '{"schema_version": 1, "run": {}}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ResultsError, match="as stratbench wrote it"):
        record.Record.load(tmp_path / "record.json")


def test_a_newer_record_is_refused(tmp_path):
    (tmp_path / "record.json").write_text('{"schema_version": 2}')
    with pytest.raises(ResultsError, match="Upgrade stratbench"):
        record.Record.load(tmp_path / "record.json")


def test_environment_fills_its_columns_and_captures_no_variables(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    captured = environment.capture()
    assert list(captured) == [column.name for column in schema.ENVIRONMENT]
    assert captured["cores_available"] >= 1 and captured["memory_bytes"] > 0 and captured["python"]
    assert "hunter2" not in str(captured)


def test_environment_names_what_changes_the_speed(tmp_path, monkeypatch):
    for name in environment.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    for core, governor in enumerate(("powersave", "powersave", "performance")):
        file = tmp_path / f"cpu{core}" / "cpufreq" / "scaling_governor"
        file.parent.mkdir(parents=True)
        file.write_text(f"{governor}\n")
    monkeypatch.setattr(environment, "_CORES", tmp_path)
    captured = environment.capture()
    assert captured["settings"] == "OMP_NUM_THREADS=4 TF_ENABLE_ONEDNN_OPTS=0"
    assert captured["cpu_governor"] == "powersave, performance"


def test_environment_lists_gpus_where_nvidia_smi_is(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A100, 550.1'\necho 'NVIDIA A100, 550.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    captured = environment.capture()
    assert (captured["gpus"], captured["gpu_driver"]) == ("NVIDIA A100, NVIDIA A100", "550.1")
    program.write_text("#!/bin/sh\necho 'no devices' >&2\nexit 9\n")
    assert environment.capture()["gpus"] == ""


def test_the_documentation_is_current():
    page = Path(__file__).parents[1] / "docs" / "results.md"
    assert page.read_text().endswith(schema.markdown()), "put the output of `python -m stratbench.results.schema` there"
