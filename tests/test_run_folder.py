"""What becomes of a run's former folder, and of records that can't be read: nothing of a user's is lost."""

import json
import os

import pytest
from conftest import make_spec
from stratbench.errors import ResultsError, UsageError
from stratbench.harness.job.in_job import _start_anew
from stratbench.harness.launch.run import free_repeat, prepare, statuses
from stratbench.results import load
from stratbench.results.raw import run_folder
from stratbench.results.tables.store import Store
from test_results_record import make_record


def made(folder, spec, status="ok", **arguments):
    """The folder of a run that ended with ``status``, as a command leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text("{}")
    (folder / "worker-0.jsonl").write_text("{}")
    (folder / "worker-0.log").write_text("")
    built = make_record(spec=spec.model_dump(), run_id=spec.run_id, status=status, **arguments)
    built.save(folder / "record.json")
    return folder / "record.json"


@pytest.fixture
def spec():
    return make_spec()


@pytest.fixture
def folder(tmp_path, spec):
    return tmp_path / "runs" / spec.run_id


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_failed_attempt_is_replaced(spec, folder):
    made(folder, spec, "failed", reason="x")
    for name in ("step-3.npz", "step-4.worker-1.npz", "step-4.worker-0.new", "epoch-3.npz"):
        (folder / name).touch()
    (folder / "scratch").mkdir()
    (folder / "profile" / "worker-0").mkdir(parents=True)
    assert prepare(spec, folder) == ""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == ["spec.json"]


@pytest.mark.parametrize(
    ("status", "spoil", "reason"),
    [
        ("failed", lambda folder: (folder / "notes.txt").write_text("mine"), "notes.txt, which is not stratbench's"),
        ("failed", lambda folder: (folder / "thoughts.log").write_text("mine"), "thoughts.log"),
        ("failed", lambda folder: (folder / "plots").mkdir(), "plots"),
        ("failed", lambda folder: (folder / "worker-1.log").symlink_to("/etc/hosts"), "worker-1.log"),
        ("failed", lambda folder: (folder / "record.json").write_text("{"), "can't be read"),
        ("failed", lambda folder: change(folder / "record.json", schema_version=99), "can't be read"),
        ("failed", lambda folder: (folder / "record.json").unlink(), "without a record"),
        ("ok", lambda folder: None, "a run that is ok"),
    ],
)
def test_what_must_not_be_lost_is_put_aside(spec, folder, status, spoil, reason):
    made(folder, spec, status, **({"reason": "x"} if status == "failed" else {}))
    spoil(folder)
    for number in (1, 2):
        before = {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}
        said = prepare(spec, folder)
        aside = folder.with_name(f"{folder.name}.aside-{number}")
        assert aside.name in said and said.isprintable()
        assert number == 2 or reason in said
        assert {path.name: path.read_bytes() if path.is_file() else None for path in aside.iterdir()} == before
        (folder / "mine").touch()
    assert run_folder.recorded(folder.parents[1]) == []


def test_a_file_in_the_folder_s_place_is_put_aside(spec, folder):
    folder.parent.mkdir()
    folder.write_text("mine")
    assert "aside-1" in prepare(spec, folder)
    assert folder.with_name(f"{folder.name}.aside-1").read_text() == "mine"


def test_a_newer_record_stops_everything_before_it_begins(spec, folder, tmp_path):
    change(made(folder, spec), schema_version=2)
    with pytest.raises(UsageError, match="Upgrade stratbench"):
        statuses(tmp_path)
    with Store(tmp_path) as opened, pytest.raises(ResultsError, match="Upgrade stratbench") as caught:
        opened.recover(pytest.fail)
    assert caught.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_record_that_cannot_be_read_takes_its_repeat(spec, folder, tmp_path):
    made(folder, spec).write_text("{")
    assert statuses(tmp_path) == {spec.run_id: "unreadable"}
    assert free_repeat(spec, statuses(tmp_path)).repeat == spec.repeat + 1
    named = []
    with Store(tmp_path) as opened:
        assert opened.recover(named.append) == []
    assert len(named) == 1 and "its run is not in the tables" in named[0] and named[0].isprintable()


def test_a_damaged_record_leaves_the_rows_that_the_tables_have(spec, folder, tmp_path):
    path = made(folder, spec)
    with Store(tmp_path) as opened:
        opened.recover(pytest.fail)
    path.write_text("{")
    os.utime(path, (2e9, 2e9))
    named = []
    with Store(tmp_path) as opened:
        assert opened.recover(named.append) == []
    assert "its old rows stay in the tables" in named[0]
    assert statuses(tmp_path) == {spec.run_id: "ok"} and len(load(tmp_path).runs) == 1


def test_a_copy_of_a_run_s_folder_is_not_taken_for_the_run(spec, folder, tmp_path):
    made(folder, spec)
    made(folder.with_name("copy"), spec, "failed", reason="x")
    named = []
    with Store(tmp_path) as opened:
        assert opened.recover(named.append) == [spec.run_id]
    assert load(tmp_path).runs.status.tolist() == ["ok"]
    assert "must be in the folder of its name" in named[0]


@pytest.mark.parametrize("status", ["ok", "damaged", "newer", "failed"])
def test_a_job_removes_only_a_failed_record(spec, folder, status):
    path = made(folder, spec, *(["failed"] if status == "failed" else []))
    if status == "damaged":
        path.write_text("{")
    if status == "newer":
        change(path, schema_version=2)
    before = path.read_bytes()
    if status == "failed":
        _start_anew(spec, folder)
        assert not path.exists()
    else:
        with pytest.raises(UsageError):
            _start_anew(spec, folder)
        assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_runs_that_is_no_folder_is_refused(tmp_path, kind):
    (tmp_path / "runs").touch() if kind == "file" else os.mkfifo(tmp_path / "runs")
    with pytest.raises(UsageError, match="must be a readable folder"):
        statuses(tmp_path)
