"""The tables of an output folder: what is written, and what a full disk, a kill or a second writer leaves of it."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
import time

import h5py
import numpy as np
import psutil
import pytest
import stratbench.results
from stored_results import FILES, assert_csv_follows, contents, csv_lines, record_of, save
from stratbench.errors import ResultsError
from stratbench.results import schema
from stratbench.results.raw import journal
from stratbench.results.tables import csv_tables, hdf5, store
from test_results_record import STARTED, make_log


def test_round_trip(tmp_path):
    first, second = (
        record_of(1),
        record_of(2, status="failed", reason='out, "of" memory: größer', logs=[make_log()]),
    )
    with store.Store(tmp_path) as opened:
        assert opened.runs() == {}
        opened.add(first)
        opened.add(second)
        assert opened.runs() == {first.run_id: "ok", second.run_id: "failed"}
    assert sorted(contents(tmp_path)) == FILES
    with store.Store(tmp_path) as opened:
        assert opened.runs() == {first.run_id: "ok", second.run_id: "failed"}
    tables = assert_csv_follows(tmp_path)
    assert tables.runs.reason.tolist() == ["", 'out, "of" memory: größer']
    assert tables.runs.oversubscribed.dtype == bool and tables.steps.warmup.dtype == bool
    assert len(tables.steps) == 12 and len(tables.tasks) == 3 and len(tables.epochs) == 4
    assert tables.runs.to_dict("records")[0] == pytest.approx(first.run, nan_ok=True)
    assert stratbench.results.load(tmp_path / "results.h5").steps.equals(tables.steps)


def test_layout_of_the_hdf5_file(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with h5py.File(tmp_path / "results.h5") as file:
        assert file.attrs["schema_version"] == 1 and file.attrs["created_by"].startswith("stratbench ")
        assert set(file) == set(schema.TABLES)
        for table, columns in schema.TABLES.items():
            assert set(file[table]) == {column.name for column in columns}
            for column in columns:
                dataset = file[table][column.name]
                assert (dataset.attrs["unit"], dataset.attrs["description"]) == (
                    column.unit,
                    column.description,
                )
        assert file["runs/strategy"].asstr()[:].tolist() == ["horovod"]
        assert file["steps/warmup"].dtype == np.int8 and file["steps/step"].dtype == np.int64


def test_texts_without_rows_are_still_texts(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1, status="skipped", reason="no GPU"))
    tables = assert_csv_follows(tmp_path)
    assert len(tables.steps) == 0 and tables.steps.role.dtype == tables.runs.reason.dtype


def test_adding_again_replaces_all_rows_of_the_run(tmp_path):
    with store.Store(tmp_path) as opened:
        for repeat in (1, 2, 3):
            opened.add(record_of(repeat))
        opened.add(record_of(2, logs=[make_log(losses=(7.0, 7.0, 7.0, 7.0))]))
        assert list(opened.runs()) == [record_of(repeat).run_id for repeat in (1, 3, 2)]
    tables = assert_csv_follows(tmp_path)
    assert tables.runs.final_loss.tolist() == [1.5, 1.5, 7.0]
    assert tables.steps.groupby("run_id").size().to_dict() == {
        record_of(1).run_id: 8,
        record_of(2).run_id: 4,
        record_of(3).run_id: 8,
    }


def test_longer_texts_later_on_widen_the_column(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1, status="failed", reason="short"))
        opened.add(record_of(2, status="failed", reason="ü" * 500))
        opened.add(record_of(3, status="failed", reason="short"))
    assert assert_csv_follows(tmp_path).runs.reason.tolist() == ["short", "ü" * 500, "short"]


def test_blocks_smaller_than_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 3)
    monkeypatch.setattr(csv_tables, "_WRITE_ROWS", 3)
    monkeypatch.setattr(csv_tables, "_READ_BYTES", 10)
    with store.Store(tmp_path) as opened:
        for repeat in (1, 2, 1):
            opened.add(record_of(repeat))
    assert assert_csv_follows(tmp_path).steps.step.tolist() == [0, 1, 2, 3] * 4


def test_an_edited_or_missing_csv_is_written_anew(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
        (tmp_path / "steps.csv.gz").unlink()
        (tmp_path / "runs.csv").write_text("run_id\n")
        with (tmp_path / "tasks.csv").open("a") as file:
            file.write("more\n")
        opened.add(record_of(2))
    assert_csv_follows(tmp_path)


@pytest.mark.parametrize("call", range(1, len(FILES) + 1))
def test_a_full_disk_harms_nothing(tmp_path, monkeypatch, call):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
        before = contents(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            with pytest.raises(ResultsError, match=r"No space left on device\. Nothing is lost") as caught:
                opened.add(record_of(2))
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before and list(opened.runs()) == [record_of(1).run_id]
        opened.add(record_of(2))
    assert_csv_follows(tmp_path)


FILL = """
import sys
from pathlib import Path
from stratbench.errors import NewerResultsError, ResultsError
from stratbench.results.raw.record import Record
from stratbench.results.tables.store import Store

folder, *paths = map(Path, sys.argv[1:])
with Store(folder) as opened:
    opened.add(Record.load(paths[0]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        for path in paths[1:]:
            opened.add(Record.load(path))
        print("it all fitted")
    except ResultsError as error:
        print(error)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        paths = [save(tmp_path, record_of(1)), save(tmp_path, record_of(2, logs=[long_log(20_000)]))]
        answer = subprocess.run([sys.executable, "-c", FILL, disk, *paths], capture_output=True, text=True)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "No space left on device. Nothing is lost" in answer.stdout


def test_a_kill_between_the_replacements_is_healed(tmp_path, monkeypatch):
    first, second = record_of(1), record_of(2)
    with store.Store(tmp_path) as opened:
        save(tmp_path, first)
        opened.add(first)
        save(tmp_path, second)
        replace = type(tmp_path).replace
        done = []

        def replace_two(self, target):
            done.append(target)
            if len(done) > 2:
                raise KeyboardInterrupt
            return replace(self, target)

        with monkeypatch.context() as patched:
            patched.setattr(type(tmp_path), "replace", replace_two)
            with pytest.raises(KeyboardInterrupt):
                opened.add(second)
    (tmp_path / "results.h5.tmp").write_bytes(b"left over by a kill")
    with store.Store(tmp_path) as opened:
        assert list(opened.runs()) == [first.run_id]
        assert opened.recover(print) == [second.run_id]
        assert opened.recover(print) == []
    assert sorted(contents(tmp_path)) == FILES
    assert_csv_follows(tmp_path)


def test_recover_takes_in_a_later_attempt_and_skips_what_it_cannot_read(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1, status="failed", reason="killed"))
        save(tmp_path, record_of(1, started=STARTED + 100))
        save(tmp_path, record_of(2)).write_text("{")
        assert opened.recover(print) == [record_of(1).run_id]
        assert opened.runs() == {record_of(1).run_id: "ok"}


def test_a_lost_results_file_is_rebuilt_from_the_records(tmp_path):
    with store.Store(tmp_path) as opened:
        for repeat in (1, 2):
            save(tmp_path, record_of(repeat))
            opened.add(record_of(repeat))
    before = csv_lines(tmp_path)
    (tmp_path / "results.h5").unlink()
    with store.Store(tmp_path) as opened:
        assert len(opened.recover(print)) == 2
    assert csv_lines(tmp_path) == before


def test_somebody_else_s_lock_file_is_not_touched(tmp_path):
    (tmp_path / ".lock").write_text("my notes")
    with pytest.raises(ResultsError, match=r"\.lock is not stratbench's"):
        store.Store(tmp_path)
    assert (tmp_path / ".lock").read_text() == "my notes"
    (tmp_path / ".lock").unlink()
    (tmp_path / "notes").write_text("my notes")
    (tmp_path / ".lock").symlink_to("notes")
    with pytest.raises(ResultsError, match="must be writable"):
        store.Store(tmp_path)
    assert (tmp_path / "notes").read_text() == "my notes"


def test_one_writer_at_a_time(tmp_path):
    code = "import sys, stratbench.results.tables.store as s; s.Store(sys.argv[1])"
    with store.Store(tmp_path):
        with pytest.raises(ResultsError, match=f"in use by process {os.getpid()} on "):
            store.Store(tmp_path)
        answer = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert f"in use by process {os.getpid()}" in answer.stderr
    assert not (tmp_path / ".lock").exists()
    # A process that died without releasing leaves a lock file, which locks nothing.
    subprocess.run([sys.executable, "-c", f"{code}; import os; os._exit(1)", tmp_path])
    assert (tmp_path / ".lock").exists()
    store.Store(tmp_path).close()


def test_a_lock_file_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    flock = fcntl.flock
    removals = []

    def flock_late(descriptor, operation):
        if not removals:
            removals.append((tmp_path / ".lock").unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with store.Store(tmp_path), pytest.raises(ResultsError, match="in use"):
        store.Store(tmp_path)


@pytest.mark.parametrize("folder", ["file/out", "/proc/out"])
def test_an_unwritable_folder_is_refused(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"must be writable.*Choose another --output"):
        store.Store(tmp_path / folder)


def long_log(count):
    random = np.random.default_rng(0)
    log = make_log()
    log.steps = np.zeros(count, dtype=list(journal.STEP_FIELDS.items()))
    log.steps["step"] = np.arange(count)
    log.steps["examples"] = 32
    for name in ("step_seconds", "input_seconds", "loss"):
        log.steps[name] = random.random(count)
    return log


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_million_steps_in_sane_time_and_memory(tmp_path):
    def seconds(function, *arguments):
        begin = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - begin

    long = record_of(1, logs=[long_log(1_000_000)])
    before = psutil.Process().memory_info().rss
    with store.Store(tmp_path) as opened:
        assert seconds(opened.add, long) < 60
        assert seconds(opened.add, record_of(2)) < 5
        assert seconds(opened.add, record_of(2)) < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < before + 150e6
    assert (tmp_path / "results.h5").stat().st_size < 40e6
    tables = stratbench.results.load(tmp_path)
    assert len(tables.steps) == 1_000_008 and tables.steps.loss[999_999] == long.steps["loss"][-1]
