"""Damaged inputs: whatever stands in an output folder, tables or one line come of it, and nothing of it is lost."""

import io
import json
import math
import os
import shutil
import string
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import stratbench.results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stratbench.errors import ResultsError
from stratbench.results import schema
from stratbench.results.raw import record, run_folder
from stratbench.results.tables import hdf5, opening
from stratbench.results.tables.store import Store
from test_results_record import make_log, make_record, make_spec

DAMAGED = make_record(spec=make_spec(repeat=1))
WHOLE = make_record(spec=make_spec(repeat=2), status="failed", reason="out of memory", logs=[make_log()])
ADDED = make_record(spec=make_spec(repeat=3))
TABLES = (*schema.TABLES,)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Thousands of files that need not outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def profile(examples):
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def both(quick, thorough):
    """Run a property in the default profile, and as ``exhaustive`` with many more examples."""

    def decorate(check):
        return pytest.mark.parametrize(
            "examples", [quick, pytest.param(thorough, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)])]
        )(check)

    return decorate


def save(folder, built):
    path = folder / "runs" / built.run_id / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    built.save(path)
    return path


def fresh(tmp_path):
    """An output folder with two runs, a user's notes, and their tables."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    for built in (DAMAGED, WHOLE):
        save(tmp_path, built)
    (tmp_path / "runs" / DAMAGED.run_id / "notes.txt").write_text("mine")
    with Store(tmp_path) as opened:
        opened.recover(pytest.fail)
    return tmp_path


def told(function, *arguments):
    """What it returns, or None where it raised ResultsError with one line; any other exception passes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return function(*arguments)
    except ResultsError as error:
        assert str(error).isprintable() and str(error), ascii(str(error))
        return None


def rows_of(tables, run_id):
    frames = [getattr(tables, table) for table in TABLES]
    return [frame[frame.run_id == run_id].reset_index(drop=True) for frame in frames]


def content():
    stream = io.BytesIO()
    DAMAGED._write(stream)
    return json.loads(stream.getvalue())


CONTENT = content()
ODD = st.one_of(
    st.sampled_from(
        [
            *(10**30, -(10**30), 2**63, -1, 0, 1e300, 0.5, math.inf, -math.inf, math.nan, True, False, None),
            *("inf", "nan", "", "a\nb\0c", "\ud800", "ü" * 300, "x" * 70_000, "../..", [], [1], {}, {"a": 1}, [[[[]]]]),
        ]
    ),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
)


def places(value, path=()):
    """Where something stands in the JSON: keys and indices from the top."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


PLACES = list(places(CONTENT))


@st.composite
def odd_records(draw):
    """The text of a record in which values are replaced, dropped or added."""
    found = json.loads(json.dumps(CONTENT))
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(PLACES))
        inner = found
        try:
            for key in way:
                inner = inner[key]
            match draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"])):
                case "replace":
                    inner[last] = draw(ODD)
                case "drop":
                    del inner[last]
                case "add" if isinstance(inner, dict):
                    inner[draw(st.text(string.ascii_letters, min_size=1))] = draw(ODD)
        except (KeyError, IndexError, TypeError):
            # An earlier change took the place away.
            pass
    return json.dumps(found).encode()


TEXT = json.dumps(CONTENT).encode()


@st.composite
def cut_up(draw, data):
    """``data`` with bytes changed, cut off, or put in."""
    found = bytearray(data)
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        found[place] = draw(st.integers(0, 255))
    start, stop = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    match draw(st.sampled_from(["flip", "flip", "cut", "hole", "twice"])):
        case "cut":
            del found[start:]
        case "hole":
            del found[start:stop]
        case "twice":
            found[start:start] = found[start:stop]
    return bytes(found)


class TestRecords:
    """Any record.json: its run is in the tables or named, the others are in them, and the folder is as it was."""

    @both(150, 8000)
    @pytest.mark.parametrize("texts", [odd_records(), cut_up(TEXT)], ids=["values", "bytes"])
    def test_what_loads_can_be_stored_and_shown(self, tmp_path, texts, examples):
        path = save(tmp_path, DAMAGED)
        loaded = []

        @profile(examples)
        @given(texts)
        def check(text):
            path.write_bytes(text)
            built = told(run_folder.load, path.parent)
            if built is not None:
                loaded.append((text, built))

        check()
        assert len(loaded) > examples / 20, "next to nothing passes, so that this test shows nothing"
        for start in range(0, len(loaded), 100):
            assert_storable(loaded[start : start + 100])

    @both(3, 1500)
    @pytest.mark.parametrize("texts", [odd_records(), cut_up(TEXT)], ids=["values", "bytes"])
    def test_the_folder_goes_on(self, tmp_path, texts, examples):
        @profile(examples)
        @given(texts)
        def check(text):
            check_record(tmp_path / "out", text)

        check()

    @pytest.mark.parametrize(
        "text",
        [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff\xfe{", b"null", b'{"schema_version": 1e400}'],
    )
    def test_absurd_text(self, tmp_path, text):
        assert check_record(tmp_path / "out", text) == "named"


def check_record(folder, text):
    shutil.rmtree(folder, ignore_errors=True)
    save(folder, WHOLE)
    path = save(folder, DAMAGED)
    path.write_bytes(text)
    (path.parent / "notes.txt").write_text("mine")
    named = []
    with Store(folder) as opened:
        if told(opened.recover, named.append) is None:
            # Of a newer schema: refused as a whole.
            assert json.loads(text)["schema_version"] > schema.SCHEMA_VERSION and not named
            return "refused"
    assert all(line.isprintable() for line in named)
    tables = stratbench.results.load(folder)
    ids = {WHOLE.run_id}
    assert set(tables.runs.run_id) == (ids if named else ids | {DAMAGED.run_id})
    assert len(named) <= 1
    assert path.read_bytes() == text and (path.parent / "notes.txt").read_text() == "mine"
    assert_shown(tables.runs)
    return "named" if named else "stored"


def assert_storable(loaded):
    """All at once, which is quicker; one by one if that fails, to name the text that is at fault."""
    try:
        store_and_show([built for _, built in loaded])
    except Exception as error:
        for text, built in loaded if len(loaded) > 1 else ():
            assert_storable([(text, built)])
        raise AssertionError(f"a record that loads can't be stored or shown: {loaded[0][0]!r}") from error


def store_and_show(records):
    added = {table: [built.columns(table) for built in records] for table in TABLES}
    for blocks in added.values():
        for number, block in enumerate(blocks):
            block["run_id"] = np.full(len(block["run_id"]), f"run-{number}", dtype=object)
    image = hdf5.merge(None, (), added)
    with h5py.File(image, "r") as file:
        for table, blocks in added.items():
            found = hdf5.read(file, table)
            for column in schema.TABLES[table]:
                expected = np.concatenate([block[column.name] for block in blocks])
                assert np.array_equal(found[column.name], expected, equal_nan=column.kind == "float")
        assert_shown(pd.DataFrame(hdf5.read(file, "runs")))


def assert_shown(runs):
    """The report takes whatever the tables let in."""
    from rich.console import Console
    from stratbench.results.analysis.difference import between_folders
    from stratbench.results.showing import changes
    from stratbench.results.showing.plain import answers_to_json, to_json
    from stratbench.results.showing.terminal import render

    render(runs, Console(file=io.StringIO(), width=200))
    to_json(runs)
    answers_to_json(runs)
    changes.to_json(between_folders(runs, runs, 0.05))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return (fresh(tmp_path_factory.mktemp("whole") / "out") / "results.h5").read_bytes()


class TestTables:
    """Any results.h5: it is read as it was written, or refused in one line and left as it is."""

    @both(50, 4000)
    def test_bytes_changed(self, tmp_path, image, examples):
        folder = fresh(tmp_path / "out")
        before = stratbench.results.load(folder)

        def check(data):
            (folder / "results.h5").write_bytes(data)
            tables = told(stratbench.results.load, folder)
            store = told(Store, folder)
            if store is not None:
                store.close()
            # A changed byte is never read as another number.
            assert (tables is not None) == (store is not None) == (data == image)
            if tables is not None:
                assert all(getattr(tables, table).equals(getattr(before, table)) for table in TABLES)
            assert (folder / "results.h5").read_bytes() == data

        profile(examples)(given(cut_up(image))(check))()

    @both(12, 2000)
    def test_columns_changed(self, tmp_path, image, examples):
        """Whole HDF5 whose content is odd, and whose digest fits."""
        folder = fresh(tmp_path / "out")
        columns = [f"{table}/{column.name}" for table in TABLES for column in schema.TABLES[table]]
        odd = st.sampled_from(["drop", "type", "shape", "longer", "shorter", "group", "text", "same", "attribute"])

        def check(changes):
            buffer = io.BytesIO(image)
            with h5py.File(buffer, "r+") as file:
                for name, how in changes:
                    if name in file:
                        change(file, name, how)
            opening.seal(buffer)
            (folder / "results.h5").write_bytes(buffer.getbuffer())
            before = told(stratbench.results.load, folder)
            store = told(Store, folder)
            if store is None:
                assert (folder / "results.h5").read_bytes() == buffer.getvalue()
                return
            with store:
                added = told(lambda: store.add(ADDED) or True)
            after = told(stratbench.results.load, folder)
            if before is not None:
                assert added and after is not None
                for run_id in before.runs.run_id:
                    pairs = zip(rows_of(before, run_id), rows_of(after, run_id), strict=True)
                    assert all(one.equals(other) for one, other in pairs)

        changes = st.lists(st.tuples(st.sampled_from(columns), odd), min_size=1, max_size=2)
        profile(examples)(given(changes)(check))()


def change(file, name, how):
    values = file[name][:] if isinstance(file[name], h5py.Dataset) else np.zeros(2)
    if how == "attribute":
        file.attrs["schema_version"] = [1, 2]
        return
    del file[name]
    match how:
        case "type":
            file[name] = np.array([1j, 2j])
        case "shape":
            file[name] = np.zeros((len(values), 2))
        case "longer":
            file[name] = np.concatenate([values, values])
        case "shorter":
            file[name] = values[:-1]
        case "group":
            file.create_group(name)
        case "text":
            file[name] = np.array([b"\xff\xfe"] * len(values), dtype="S16")
        case "same":
            file[name] = np.repeat(values[:1], len(values))


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_of_every_table_is_checked(table):
    """One odd value for each kind of column, in each column."""
    odd = {"text": 1, "int": True, "float": "1", "bool": 1}
    found = json.loads(json.dumps(CONTENT))
    for column in schema.TABLES[table]:
        rows = found[table.removesuffix("s") if table == "runs" else table]
        if isinstance(rows, dict):
            values = rows.get(column.name)
            former, place = (
                (values[0], (values, 0))
                if isinstance(values, list) and values
                else (rows.get(column.name), (rows, column.name))
            )
        elif rows:
            former, place = rows[0][column.name], (rows[0], column.name)
        else:
            continue
        place[0][place[1]] = odd[column.kind]
        with pytest.raises(ValueError, match=column.name):
            record._checked(found)
        place[0][place[1]] = former
    assert record._checked(found).run_id == DAMAGED.run_id


def test_a_folder_that_holds_anything_else_is_renamed_never_emptied(tmp_path):
    def check(names):
        folder = tmp_path / "runs" / "a-n1-0-r0"
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(name)
        said = run_folder.make_room(folder)
        assert folder.is_dir() and not list(folder.iterdir())
        aside = Path(f"{folder}.aside-1")
        kept = {path.name for path in aside.iterdir()} if aside.exists() else set()
        assert bool(said) == aside.exists() and kept == (set(names) if said else set())
        assert said or set(names) <= {"spec.json"}

    names = st.sets(
        st.sampled_from(["spec.json", "record.json", "worker-0.log", "worker-0.jsonl", "notes.log", "a.md"])
    )
    profile(60)(given(names)(check))()
