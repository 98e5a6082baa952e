"""The whole command when things go wrong: interrupts, bad data, full disks, rivals. Real processes, small work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import processes_of
from stratbench.harness.cli import commands as cli
from stratbench.results import load
from stratbench.strategies.collectives import _collective as collectives
from stratbench.strategies.collectives._build import HorovodStatus

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_strays")]

STRATBENCH = [sys.executable, "-m", "stratbench.harness.cli"]
DATA = "synthetic:shape=8x8x1,classes=4,examples=600"
WORK = ["--model", "mlp", "--global-batch", "32", "--steps", "30"]
BOTH = ["compare", "-s", "single", "-s", "mirrored", "--dataset", DATA, *WORK]


def start(output: Path, *arguments: str, prefix: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[str]:
    """A command in a group of its own, as a shell would start it, so that Ctrl-C can be sent to the group."""
    return subprocess.Popen(
        [*prefix, *STRATBENCH, *arguments, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, error


def bench(output: Path, *arguments: str) -> tuple[int, str, str]:
    return finish(start(output, *arguments))


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return value


def wait_for_task(output: Path, run: str, label: str = "worker-0", text: str = "") -> Path:
    """The journal of a run's task, once it has been begun, and holds ``text``."""
    return wait_for(
        lambda: next((path for path in output.glob(f"runs/{run}*/{label}.jsonl") if text in path.read_text()), None)
    )


def rows(output: Path) -> pd.DataFrame:
    return load(output).runs


def cell(output: Path, strategy: str, column: str) -> str:
    """The text in one column of a strategy's only row."""
    (value,) = rows(output).query("strategy == @strategy")[column]
    return str(value)


def statuses(output: Path) -> dict[str, str]:
    table = rows(output)
    return dict(zip(table["strategy"], table["status"], strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder after ``run -s single``. To be copied, not written to."""
    output = tmp_path_factory.mktemp("finished") / "out"
    code, out, error = bench(output, "run", "-s", "single", "--dataset", DATA, *WORK)
    assert code == 0, error
    assert "single" in out and len(error.splitlines()) == 1
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`: `BOTH` has its first run behind it there."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "an output ünder" / "here"
    process = start(output, *BOTH)
    wait_for_task(output, "mirrored")
    os.killpg(process.pid, signal.SIGINT)
    interrupted = time.monotonic()
    code, _, error = finish(process)
    assert code == 130
    assert time.monotonic() - interrupted < 15
    assert not processes_of(tmp_path)
    assert statuses(output) == {"single": "ok", "mirrored": "failed"}
    assert "interrupted" in cell(output, "mirrored", "reason")
    assert "Traceback" not in error and "interrupted" in error.splitlines()[-1]

    first = cell(output, "single", "started_at")
    code, out, error = bench(output, *BOTH)
    assert code == 0, error
    assert "1 of 2 runs are ok already" in error
    assert statuses(output) == {"single": "ok", "mirrored": "ok"}
    assert cell(output, "single", "started_at") == first
    assert "single" in out and "mirrored" in out


def test_sigterm_ends_in_order_and_a_rival_is_told_who_writes(output: Path) -> None:
    process = start(output, "run", "-s", "mirrored", "--dataset", DATA, *WORK, "--steps", "1000000")
    wait_for_task(output, "mirrored")
    for arguments in (BOTH, ["run", "-s", "single", "--dataset", DATA, *WORK]):
        code, out, error = bench(output, *arguments)
        line = error.splitlines()[-1]
        assert (code, out) == (2, "")
        assert line.startswith("stratbench: ") and f"in use by process {process.pid} on" in line
    process.terminate()
    terminated = time.monotonic()
    code, _, error = finish(process)
    assert code == 143
    assert time.monotonic() - terminated < 15
    assert "Traceback" not in error
    assert statuses(output) == {"single": "ok", "mirrored": "failed"}


def test_after_sigkill_the_same_command_works(output: Path) -> None:
    process = start(output, *BOTH)
    journal = wait_for_task(output, "mirrored")
    process.kill()
    finish(process)
    wait_for(lambda: not processes_of(output), 20)
    # What a kill may leave: the lock's file, tables half written, a record half written.
    (output / ".lock").touch()
    (output / "results.h5.tmp").write_bytes(b"\x89HDF\r\n")
    (journal.parent / "record.json").write_text('{"run": {')
    assert statuses(output) == {"single": "ok"}
    code, _, error = bench(output, *BOTH)
    assert code == 0, error
    assert statuses(output) == {"single": "ok", "mirrored": "ok"}
    assert not list(output.glob("*.tmp")) and not (output / ".lock").exists()


def write_data(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    """The reference of a data set of four classes."""
    with h5py.File(folder / "my data.h5", "w") as file:
        file["x"], file["y"] = x, y
    return f"hdf5:{folder / 'my data.h5'},classes=4"


def test_bad_examples_are_a_failed_row_and_one_line(tmp_path: Path) -> None:
    message = "must be finite numbers. Received: nan in row"
    reference = write_data(tmp_path, np.full((600, 8, 8, 1), np.nan, "float32"), np.arange(600) % 4)
    code, out, error = bench(tmp_path / "out", "run", "-s", "single", "--dataset", reference, *WORK)
    assert (code, out) == (1, "")
    assert len(error.splitlines()) == 1 and message in error, error
    (row,) = rows(tmp_path / "out").to_dict("records")
    assert row["status"] == "failed" and message in row["reason"]


def test_bad_labels_are_one_line_before_anything_runs(tmp_path: Path) -> None:
    reference = write_data(tmp_path, np.zeros((600, 8, 8, 1), "float32"), np.where(np.arange(600) < 300, 1, 7))
    code, out, error = bench(tmp_path / "out", "run", "-s", "single", "--dataset", reference, *WORK)
    assert (code, out) == (2, "") and not (tmp_path / "out").exists()
    assert len(error.splitlines()) == 1 and "7" in error, error


@pytest.fixture
def small_disk(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """A file system of 2 MB with a copy of `finished` in its folder ``out``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        shutil.copytree(finished, folder / "out")
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all of the disk but ``leave`` bytes."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    return filler


def test_a_disk_that_is_full_from_the_start_is_one_line(small_disk: Path) -> None:
    output = small_disk / "out"
    filler = fill(small_disk, 0)
    code, _, error = bench(output, *BOTH)
    assert code in (1, 2), error
    assert "No space left on device" in error.splitlines()[-1] and "Traceback" not in error
    assert statuses(output) == {"single": "ok"}
    filler.unlink()
    # All that it asks for is there: nothing to run, and the folder can be written to again.
    code, out, error = bench(output, "compare", "-s", "single", "--dataset", DATA, *WORK)
    assert code == 0 and "single" in out, error


def test_a_disk_too_full_for_the_tables_loses_nothing(small_disk: Path) -> None:
    output = small_disk / "out"
    before = {path.name: path.read_bytes() for path in output.glob("results.*")}
    filler = fill(small_disk, 100_000)
    code, _, error = bench(output, *BOTH)
    assert code == 1, error
    assert "Traceback" not in error
    assert "must be writable" in error.splitlines()[-1] and "No space left on device" in error.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in output.glob("results.*")} == before
    assert statuses(output) == {"single": "ok"}
    (record,) = output.glob("runs/mirrored*/record.json")
    saved = record.read_bytes()

    filler.unlink()
    code, out, error = bench(output, *BOTH)
    assert code == 0, error
    assert statuses(output) == {"single": "ok", "mirrored": "ok"}
    assert "mirrored" in out
    # "Nothing is lost": the finished run is taken in from its record, not trained again.
    assert record.read_bytes() == saved
    assert "2 of 2 runs are ok already" in error


def test_tables_that_were_moved_away_come_back_from_the_records(output: Path) -> None:
    before = rows(output)
    (output / "results.h5").unlink()
    code, out, error = bench(output, "compare", "-s", "single", "--dataset", DATA, *WORK)
    assert code == 0, error
    assert "1 of 1 runs are ok already" in error and "single" in out
    pd.testing.assert_frame_equal(rows(output), before)


def test_running_again_adds_a_repeat(output: Path) -> None:
    before = rows(output)
    code, out, error = bench(output, "run", "-s", "single", "--dataset", DATA, *WORK, "--json")
    assert code == 0, error
    after = rows(output)
    assert list(after["repeat"]) == [0, 1]
    assert [run_id.rsplit("-", 1)[-1] for run_id in after["run_id"]] == ["r0", "r1"]
    pd.testing.assert_frame_equal(after.iloc[:1], before)
    assert '"repeat": 1' in out
    # The same seed: another measurement of the same training.
    assert after["test_accuracy"].nunique() == 1


def test_a_missing_horovod_is_a_skipped_row_that_says_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = "Horovod is not installed; run: stratbench install-horovod"
    monkeypatch.setattr(collectives, "status", lambda: HorovodStatus(False, problem=problem))
    for command in ("run", "compare"):
        arguments = ["stratbench", command, "-s", "horovod", "-n", "2", "--dataset", DATA, *WORK]
        monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        error = capsys.readouterr().err
        assert ended.value.code == 1
        assert len(error.splitlines()) == 1 and "skipped" in error and "stratbench install-horovod" in error
        (row,) = rows(tmp_path).to_dict("records")
        assert (row["status"], row["reason"]) == ("skipped", problem)


class TestInsideHorovodrun:
    """``horovodrun -np 2 stratbench run -s horovod``: the user's own launcher."""

    def start(self, output: Path, steps: int) -> subprocess.Popen[str]:
        beside = Path(sys.executable).with_name("horovodrun")
        launcher = str(beside) if beside.exists() else "horovodrun"
        work = ["--model", "mlp", "--per-replica-batch", "16", "--steps", str(steps), "--dataset", DATA]
        prefix = (launcher, "-np", "2", "-H", "localhost:2", "--disable-cache")
        return start(output, "run", "-s", "horovod", *work, prefix=prefix)

    def test_the_job_is_a_run_with_a_row(self, tmp_path: Path, horovod: None) -> None:
        code, out, error = finish(self.start(tmp_path, 30))
        assert code == 0, error
        (row,) = rows(tmp_path).to_dict("records")
        assert (row["strategy"], row["replicas"], row["status"]) == ("horovod", 2, "ok")
        assert "horovod" in out

    def test_a_killed_rank_is_named(self, tmp_path: Path, horovod: None) -> None:
        process = self.start(tmp_path, 1_000_000)
        journal = wait_for_task(tmp_path, "horovod", "worker-1", '"steps"')
        victim = next(p for p in psutil.Process(process.pid).children(recursive=True) if _rank(p) == "1")
        victim.kill()
        killed = time.monotonic()
        code, _, error = finish(process)
        assert code != 0, error
        wait_for(lambda: (tmp_path / "results.h5").exists() and not processes_of(journal.parent), 30)
        assert time.monotonic() - killed < 30
        (row,) = rows(tmp_path).to_dict("records")
        assert row["status"] == "failed" and "worker-1" in row["reason"]


def _rank(process: psutil.Process) -> str | None:
    """The rank in its job of a process that is stratbench itself, not a shell around it."""
    try:
        is_python = Path(process.cmdline()[0]).name.startswith("python")
        known = process.environ() if is_python else {}
        return known.get("HOROVOD_RANK", known.get("OMPI_COMM_WORLD_RANK"))
    except (psutil.NoSuchProcess, IndexError):
        return None
