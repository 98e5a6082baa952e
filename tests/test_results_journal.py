import json
import math
import subprocess
import sys
import time

import pytest
from stratbench.errors import ResultsError
from stratbench.results.raw import journal


def write_run(path, steps=3):
    writer = journal.Journal(path)
    writer.event("start", pid=1, host="here", role="worker", index=0, rank=0, cores=[0, 1], replicas=1)
    writer.event("ready", parameters=10, versions={"keras": "3"})
    for step in range(steps):
        writer.step(1, step, 0.5, 0.1, 32, 2.0, step == 0, now=100.0 + step / 100)
    writer.event("epoch", epoch=1, seconds=1.5)
    writer.event("evaluation", epoch=1, step=9, validation={"loss": 1.0, "accuracy": 0.5})
    writer.event("end", peak_rss_bytes=1000)
    writer.close()


def test_round_trip(tmp_path):
    write_run(tmp_path / "worker-0.jsonl")
    log = journal.read(tmp_path / "worker-0.jsonl")
    assert log.label == "worker-0"
    assert log.start["cores"] == [0, 1] and log.ready["parameters"] == 10 and log.end["peak_rss_bytes"] == 1000
    assert log.epochs[0]["seconds"] == 1.5 and log.evaluations[0]["validation"]["accuracy"] == 0.5
    assert log.failed is None and log.last_time == log.end["time"]
    assert log.steps["step"].tolist() == [0, 1, 2] and log.steps["warmup"].tolist() == [True, False, False]
    assert log.steps.dtype.names == tuple(journal.STEP_FIELDS)


def test_a_missing_file_is_an_empty_log(tmp_path):
    log = journal.read(tmp_path / "worker-3.jsonl")
    assert (log.label, log.start, log.last_time, len(log.steps)) == ("worker-3", None, None, 0)


def test_a_journal_torn_anywhere_gives_the_events_before(tmp_path):
    write_run(tmp_path / "whole.jsonl")
    text = (tmp_path / "whole.jsonl").read_bytes()
    torn = tmp_path / "torn.jsonl"
    counts = []
    for size in range(len(text) + 1):
        torn.write_bytes(text[:size])
        log = journal.read(torn)
        counts.append(len(log.steps))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 3


def test_steps_are_flushed_by_the_clock_and_before_an_event(tmp_path):
    path = tmp_path / "worker-0.jsonl"
    writer = journal.Journal(path)

    def rows_per_line():
        return [len(json.loads(line).get("rows", [])) for line in path.read_text().splitlines()]

    for step, now in enumerate([10.0, 10.1, 10.2, 10.26, 10.3]):
        writer.step(0, step, 0.1, 0.0, 1, 1.0, False, now=now)
    assert rows_per_line() == [1, 3]
    writer.event("epoch", epoch=0, seconds=1.0)
    assert rows_per_line() == [1, 3, 1, 0]
    writer.step(1, 5, 0.1, 0.0, 1, 1.0, False, now=10.31)
    writer.close()
    assert rows_per_line() == [1, 3, 1, 0, 1]


def test_losses_may_be_nan_infinite_and_numpy(tmp_path):
    import numpy as np

    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    for loss in (math.nan, math.inf, np.float32(0.5)):
        writer.step(0, 0, 0.1, 0.0, np.int64(4), loss, False, now=1.0)
    writer.close()
    losses = journal.read(tmp_path / "worker-0.jsonl").steps["loss"].tolist()
    assert math.isnan(losses[0]) and losses[1:] == [math.inf, 0.5]


def test_a_journal_replaces_that_of_an_earlier_attempt(tmp_path):
    write_run(tmp_path / "worker-0.jsonl")
    journal.Journal(tmp_path / "worker-0.jsonl").close()
    assert journal.read(tmp_path / "worker-0.jsonl").start is None


def test_an_unwritable_journal_is_a_results_error(tmp_path):
    with pytest.raises(ResultsError, match="must be writable"):
        journal.Journal(tmp_path / "nowhere" / "worker-0.jsonl")


def test_a_step_costs_microseconds(tmp_path):
    writer = journal.Journal(tmp_path / "worker-0.jsonl")
    begin = time.process_time()
    for step in range(20_000):
        writer.step(0, step, 0.001, 0.0, 32, 1.0, False, now=step / 1000)
    assert (time.process_time() - begin) / 20_000 < 50e-6


def test_follower_gives_each_whole_event_once(tmp_path):
    path = tmp_path / "worker-0.jsonl"
    follower = journal.Follower(path)
    assert follower.poll() == []
    writer = journal.Journal(path)
    writer.event("start", rank=0)
    assert [event["event"] for event in follower.poll()] == ["start"]
    with path.open("ab") as file:
        file.write(b'{"event": "epoch", "ti')
    assert follower.poll() == []
    with path.open("ab") as file:
        file.write(b'me": 1.0, "epoch": 0}\n')
    assert [event["event"] for event in follower.poll()] == ["epoch"]
    assert follower.poll() == []
    journal.Journal(path).event("end")
    assert [event["event"] for event in follower.poll()] == ["end"]


@pytest.mark.parametrize("module", ["journal", "environment", "record"])
def test_modules_that_workers_use_are_cheap(module):
    code = f"import sys, stratbench.results.raw.{module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "h5py", "tensorflow", "rich"} & set(answer.stdout.split())
