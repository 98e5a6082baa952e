"""Files that are damaged, foreign, edited, of another version, or no files: refused, or read and healed."""

import gzip
import hashlib
import io
import os
import re
import socket

import h5py
import pytest
import stratbench.results
from stored_results import assert_csv_follows, csv_lines, edited, record_of, save
from stratbench.errors import NewerResultsError, ResultsError
from stratbench.results import schema
from stratbench.results.tables import csv_tables, hdf5, opening, store


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
        (tmp_path / csv_tables.name(name)).write_text("run_id,status\nof an older version,ok\n")
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


MINE = b"name,time\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs.csv", MINE),
        ("steps.csv.gz", gzip.compress(MINE, mtime=0)),
        ("steps.csv.gz", MINE),
        ("updates.csv.gz", gzip.compress(MINE, mtime=0)[:15]),
        ("updates.csv.gz", b"\x1f\x8b\x08" + bytes(range(40))),
    ],
)
def test_a_user_s_own_csv_is_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultsError, match=rf"{re.escape(name)} is not stratbench's"):
        store.Store(tmp_path)
    assert (tmp_path / name).read_bytes() == content


def test_the_csv_of_steps_from_before_it_was_compressed_gives_way_to_the_compressed_one(tmp_path):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    lines = csv_lines(tmp_path)
    with edited(tmp_path / "results.h5") as file:
        for name in ("steps", "updates"):
            (tmp_path / f"{name}.csv.gz").unlink()
            (tmp_path / f"{name}.csv").write_text(lines[name])
            file[name].attrs["csv_sha256"] = hashlib.sha256(lines[name].encode()).hexdigest()
    (tmp_path / "updates.csv").write_text("run_id,changed\n")
    with store.Store(tmp_path) as opened:
        opened.add(record_of(2))
    assert_csv_follows(tmp_path)
    assert not (tmp_path / "steps.csv").exists()
    assert (tmp_path / "updates.csv").read_text() == "run_id,changed\n", "what was edited is the user's"
    (tmp_path / "steps.csv").mkdir()
    with store.Store(tmp_path) as opened:
        opened.add(record_of(3))
    assert len(assert_csv_follows(tmp_path).runs) == 3


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08" + bytes(range(40))])
def test_a_compressed_csv_that_cannot_be_read_is_written_anew(tmp_path, content):
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    with edited(tmp_path / "results.h5") as file:
        (tmp_path / "steps.csv.gz").write_bytes(content)
        file["steps"].attrs["csv_sha256"] = hashlib.sha256(content).hexdigest()
    with store.Store(tmp_path) as opened:
        opened.add(record_of(1))
    assert len(assert_csv_follows(tmp_path).steps) == 8


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
