import errno
import fcntl
import io
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import stratbench.results
from stratbench.errors import NewerResultsError, ResultsError
from stratbench.results import schema
from stratbench.results.raw import journal
from stratbench.results.tables import csv_tables, hdf5, opening, store
from test_results_record import STARTED, make_log, make_record, make_spec

FILES = sorted(["results.h5", *(f"{table}.csv" for table in schema.TABLES)])


def record_of(repeat, **arguments):
    return make_record(spec=make_spec(repeat=repeat), **arguments)


def save(folder, built):
    path = folder / "runs" / built.run_id / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    built.save(path)
    return path


@contextmanager
def edited(path):
    """The file to change, with a digest that fits again afterwards."""
    image = io.BytesIO(path.read_bytes())
    with h5py.File(image, "r+") as file:
        yield file
    opening.seal(image)
    path.write_bytes(image.getbuffer())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_csv_follows(folder):
    tables = stratbench.results.load(folder)
    for name in schema.TABLES:
        text = {column.name: str for column in schema.TABLES[name] if column.kind == "text"}
        frame = pd.read_csv(
            folder / f"{name}.csv",
            keep_default_na=False,
            na_values=[""],
            dtype=text,
        )
        expected = getattr(tables, name)
        assert list(frame) == list(expected) and len(frame) == len(expected), name
        for column in schema.TABLES[name]:
            if column.kind == "text":
                assert frame[column.name].fillna("").tolist() == expected[column.name].tolist()
            else:
                # The file is exact, but pandas 2 by default reads floats only to the last digit but one.
                read, kept = (table[column.name].to_numpy(float) for table in (frame, expected))
                np.testing.assert_allclose(read, kept, rtol=1e-15)
    return tables


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
        (tmp_path / "steps.csv").unlink()
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
    before = contents(tmp_path)
    (tmp_path / "results.h5").unlink()
    with store.Store(tmp_path) as opened:
        assert len(opened.recover(print)) == 2
    after = contents(tmp_path)
    assert {name: after[name] for name in FILES if name.endswith("csv")} == {
        name: before[name] for name in FILES if name.endswith("csv")
    }


def test_a_newer_schema_is_refused(tmp_path):
    with h5py.File(tmp_path / "results.h5", "w") as file:
        file.attrs["schema_version"] = 2
    expected = r"results\.h5 has schema 2; this stratbench reads up to 1\. Upgrade stratbench or choose another"
    with pytest.raises(ResultsError, match=expected):
        store.Store(tmp_path)
    with pytest.raises(ResultsError, match=expected):
        stratbench.results.load(tmp_path)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_the_fix(tmp_path, share):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    path = tmp_path / "results.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ResultsError, match=r"Move it away: .* rebuilds it") as caught:
        store.Store(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_ours_is_refused(tmp_path):
    (tmp_path / "results.h5").write_text("run_id,strategy\n")
    with pytest.raises(ResultsError, match="must be whole HDF5"):
        stratbench.results.load(tmp_path)
    h5py.File(tmp_path / "results.h5", "w").close()
    with pytest.raises(ResultsError, match="must be written by stratbench"):
        store.Store(tmp_path)
    for nowhere in (tmp_path / "none", tmp_path / "none.h5"):
        with pytest.raises(ResultsError, match="must be an output folder"):
            stratbench.results.load(nowhere)


def test_columns_that_do_not_fit_are_refused(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with edited(tmp_path / "results.h5") as file:
        del file["steps/loss"]
        file["steps/loss"] = [b"1", b"2"]
    with pytest.raises(ResultsError, match="must be whole HDF5"):
        stratbench.results.load(tmp_path)


def test_files_from_before_a_column_or_table_are_read_and_extended(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with edited(tmp_path / "results.h5") as file:
        del file["runs/gpus"], file["runs/first_step_seconds"], file["tasks"]
    for name in schema.TABLES:
        (tmp_path / f"{name}.csv").write_text("run_id,status\nof an older version,ok\n")
    tables = stratbench.results.load(tmp_path)
    assert tables.runs.gpus.tolist() == [""] and tables.runs.first_step_seconds.isna().all() and tables.tasks.empty
    with store.Store(tmp_path) as opened:
        opened.add(record_of(2))
    tables = assert_csv_follows(tmp_path)
    assert tables.runs.first_step_seconds.isna().tolist() == [True, False] and len(tables.tasks) == 2


def test_a_csv_whose_cells_were_edited_is_written_anew(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    path = tmp_path / "runs.csv"
    ours = path.read_bytes()
    path.write_bytes(ours.replace(b"horovod", b"doubled"))
    with store.Store(tmp_path) as opened:
        opened.add(record_of(2))
    assert b"doubled" not in path.read_bytes()
    assert_csv_follows(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"horovod", b"doubled"))
    with store.Store(tmp_path) as opened:
        assert opened.recover(pytest.fail) == []
    assert_csv_follows(tmp_path)
    before = (tmp_path / "results.h5").stat().st_mtime_ns
    with store.Store(tmp_path) as opened:
        opened.recover(pytest.fail)
    assert (tmp_path / "results.h5").stat().st_mtime_ns == before, "nothing was to be written"


def test_a_user_s_own_csv_is_not_replaced(tmp_path):
    (tmp_path / "runs.csv").write_text("name,time\n")
    with pytest.raises(ResultsError, match=r"runs\.csv is not stratbench's"):
        store.Store(tmp_path)
    assert (tmp_path / "runs.csv").read_text() == "name,time\n"


def test_what_a_newer_or_another_program_put_into_the_file_is_not_lost(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with edited(tmp_path / "results.h5") as file:
        file["runs/cleverness"] = [1.0]
        file["mine"] = [1.0]
    assert len(stratbench.results.load(tmp_path).runs) == 1
    with pytest.raises(NewerResultsError, match=r"holds mine, runs/cleverness"):
        store.Store(tmp_path)


def test_a_run_twice_in_the_tables_is_refused(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
        opened.add(record_of(2))
    with edited(tmp_path / "results.h5") as file:
        file["runs/run_id"][1] = file["runs/run_id"][0]
    for read in (stratbench.results.load, store.Store):
        with pytest.raises(ResultsError, match="must be whole HDF5"):
            read(tmp_path)


def test_a_file_from_before_digests_is_read_and_extended(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    path = tmp_path / "results.h5"
    with h5py.File(io.BytesIO(path.read_bytes())) as sealed, h5py.File(tmp_path / "older.h5", "w") as older:
        older.attrs["schema_version"] = sealed.attrs["schema_version"]
        for table in schema.TABLES:
            sealed.copy(table, older, without_attrs=True)
    (tmp_path / "older.h5").replace(path)
    assert not path.read_bytes().startswith(opening._SEAL) and len(stratbench.results.load(tmp_path).steps) == 8
    with store.Store(tmp_path) as opened:
        opened.add(record_of(2))
    assert path.read_bytes().startswith(opening._SEAL) and len(assert_csv_follows(tmp_path).steps) == 16


def test_a_changed_byte_is_never_read_as_a_number(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    path = tmp_path / "results.h5"
    with h5py.File(path, "r+") as file:
        file["steps/loss"][3] = 0.0
    with pytest.raises(ResultsError, match="changed"):
        stratbench.results.load(tmp_path)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_a_notebook_has_open(tmp_path, mode):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    path = tmp_path / "results.h5"
    with h5py.File(path, mode) as notebook:
        assert len(notebook["runs/run_id"]) == 1
        if mode == "r":
            assert len(stratbench.results.load(tmp_path).runs) == 1
            with store.Store(tmp_path) as opened:
                opened.add(record_of(2))
        else:
            with pytest.raises(ResultsError, match="must not be open for writing elsewhere"):
                stratbench.results.load(tmp_path)
    assert len(stratbench.results.load(tmp_path).runs) == (2 if mode == "r" else 1)


def test_the_reader_s_own_error_is_not_the_file_s(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with pytest.raises(KeyError, match="mine"), hdf5.reading(tmp_path / "results.h5"):
        raise KeyError("mine")


def special(path, kind):
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
        case "device":
            path.symlink_to("/dev/zero")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "device"])
@pytest.mark.parametrize("name", ["results.h5", "results.h5.tmp", "runs.csv", ".lock"])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    special(tmp_path / name, kind)
    for read in (store.Store, stratbench.results.load) if name == "results.h5" else (store.Store,):
        with pytest.raises(ResultsError) as caught:
            read(tmp_path)
        assert str(caught.value).isprintable() and name in str(caught.value)
    assert os.path.lexists(tmp_path / name) and not (tmp_path / "runs").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "device"])
def test_a_record_that_is_no_file_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, record_of(1))
    path = save(tmp_path, record_of(2))
    path.unlink()
    special(path, kind)
    named = []
    with store.Store(tmp_path) as opened:
        assert opened.recover(named.append) == [record_of(1).run_id]
    assert len(named) == 1 and str(path) in named[0] and os.path.lexists(path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\nb", "a\udcff", "a\ud800", "file/below"])
def test_a_path_that_no_file_can_have(tmp_path, name):
    (tmp_path / "file").touch()
    for read in (stratbench.results.load, store.read_statuses, store.Store):
        try:
            opened = read(tmp_path / name)
        except ResultsError as error:
            assert str(error).isprintable()
        else:
            # Some are odd, but names.
            assert read is not stratbench.results.load
            if read is store.Store:
                opened.close()


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
