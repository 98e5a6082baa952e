"""Open MPI's ranks for processes that stratbench starts: with a program in place of ``mpirun``, and with Open MPI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conformance import assert_same, weights
from conftest import launch, make_spec, processes_of
from stratbench.errors import RunError
from stratbench.harness.plan.task import NoPlace
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.strategies import registry
from stratbench.strategies.collectives import _collective, _mpi
from stratbench.strategies.collectives._build import HorovodStatus, status

BOTH = HorovodStatus(True, "0.28.1", "2.21.0", ("gloo", "mpi"))

MPIRUN = """
import os, subprocess, sys
size = int(sys.argv[sys.argv.index("-np") + 1])
program = sys.argv[sys.argv.index(sys.executable):]
job = {**os.environ, "OMPI_COMM_WORLD_SIZE": str(size), "PMIX_NAMESPACE": "job"}
ranks = [subprocess.Popen(program, env={**job, "OMPI_COMM_WORLD_RANK": str(rank)}) for rank in range(size)]
sys.exit(max(each.wait() for each in ranks))
"""

RANK = """
import os, sys
from stratbench.strategies.collectives import _mpi
with _mpi.ranked():
    print(*[os.environ[name] for name in ("OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE")], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is looked for ``mpirun`` first."""
    _mpi.open_mpi.cache_clear()
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder
    _mpi.open_mpi.cache_clear()


def put(folder: Path, text: str, program: str = sys.executable) -> None:
    """Make it the ``mpirun`` there."""
    mpirun = folder / "mpirun"
    mpirun.write_text(f"#!{program}\n{text}")
    mpirun.chmod(0o700)


def rank(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RANK],
        env={**os.environ, **environment, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def wait_for_end(folder: Path) -> None:
    """Until no program works there."""
    deadline = time.monotonic() + 20
    while left := processes_of(folder):
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.05)


@pytest.mark.slow
def test_each_process_gets_the_variables_of_its_rank(path: Path, tmp_path: Path, no_strays: None) -> None:
    put(path, MPIRUN)
    ranks = [rank(tmp_path, each) for each in _mpi.variables(3)]
    assert [line(each) for each in ranks] == ["0 job\n", "1 job\n", "2 job\n"]
    for each in reversed(ranks):
        each.communicate(timeout=20)
        assert each.returncode == 0
    wait_for_end(tmp_path)


@pytest.mark.slow
def test_nothing_is_left_of_mpirun_when_rank_0_is_killed(path: Path, tmp_path: Path, no_strays: None) -> None:
    put(path, MPIRUN)
    ranks = [rank(tmp_path, each) for each in _mpi.variables(2)]
    for each in ranks:
        line(each)
    for each in ranks:
        each.kill()
        each.communicate()
    wait_for_end(tmp_path)


def test_an_mpirun_that_fails_is_quoted(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, "echo -----\necho There are not enough slots.\necho\necho -----\nexit 3\n", "/bin/sh")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = r"^mpirun ended with exit code 3; its output ends: There are not enough slots\.$"
    with pytest.raises(RunError, match=expected), _mpi.ranked(_mpi.variables(2)[0]):
        raise AssertionError("it has no rank")


def test_an_error_in_the_block_stays_what_it_is(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, MPIRUN)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="mine"), _mpi.ranked(_mpi.variables(1)[0]):
        raise OSError("mine")
    wait_for_end(tmp_path)


def test_a_process_that_is_no_rank_runs_no_mpirun(path: Path) -> None:
    put(path, "exit 1\n", "/bin/sh")
    environment = {"OMPI_COMM_WORLD_RANK": "1"}
    with _mpi.ranked(environment):
        assert environment == {"OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("echo 'mpirun (Open MPI) 4.1.4'", True),
        ("echo 'mpirun (Open MPI) 5.0.11'", True),
        ("echo 'HYDRA build details:'; echo '    Version: 4.3.2'", False),
        ("exit 1", False),
    ],
)
def test_which_mpirun_it_is(text: str, found: bool, path: Path) -> None:
    put(path, text, "/bin/sh")
    assert _mpi.open_mpi() is found


@pytest.mark.parametrize(
    ("options", "open_mpi", "starts", "flag"),
    [
        ({}, True, 2, ""),
        ({"controller": "gloo"}, True, 2, ""),
        ({"controller": "mpi"}, True, 2, ""),
        ({"controller": "mpi"}, False, 1, "--mpi"),
        ({"controller": "mpi", "launcher": "horovodrun"}, True, 1, "--mpi"),
        ({"controller": "gloo", "launcher": "horovodrun"}, True, 1, "--gloo"),
        ({"op": "adasum"}, True, 2, ""),
        ({"op": "adasum"}, False, 1, "--mpi"),
        ({"elastic": True}, True, 1, "--gloo"),
    ],
)
def test_who_starts_the_processes(
    options: dict[str, str], open_mpi: bool, starts: int, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collective, "status", lambda: BOTH)
    monkeypatch.setattr(_mpi, "open_mpi", lambda: open_mpi)
    tasks = registry.create("horovod", options).tasks(2, NoPlace())
    assert len(tasks) == starts
    if flag:
        assert flag in tasks[0].command
        assert ("--binding-args=--bind-to none --map-by slot" in tasks[0].command) is (flag == "--mpi")
    else:
        assert not any(each.command for each in tasks)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("mpirun noticed that process rank 1 with PID 12 on node a exited on signal 9 (Killed).", "signal", "9"),
        ("prterun noticed that process rank 1 with PID 12 on node a exited on\nsignal 9 (Killed).", "signal", "9"),
        ("  Process name: [[60013,1],1]\n  Exit code:    3", "code", "3"),
        ("   Process name: [prterun-a-12@1,1]\n   Exit code:    3", "code", "3"),
    ],
)
def test_the_rank_that_ended_first_is_found_in_what_mpirun_prints(text: str, key: str, value: str) -> None:
    (found,) = [each for pattern in _collective._ENDS for each in re.finditer(pattern, text)]
    assert (found["index"], found[key]) == ("1", value)


@pytest.fixture
def mpi(horovod: None) -> None:
    """Skips where Horovod was built without MPI, or Open MPI is not there."""
    if "mpi" not in status().controllers:
        pytest.skip("Horovod was built without MPI")
    if not _mpi.open_mpi():
        pytest.skip("mpirun is not Open MPI's")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["auto", "horovodrun"])
def test_open_mpi_trains_what_one_process_does(
    launcher: str, mpi: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    monkeypatch.setenv(KEEP_VARIABLE, "1")
    single = weights("single", 1, "mlp", "adam", tmp_path / "single")
    found = weights(f"horovod:controller=mpi,launcher={launcher}", 3, "mlp", "adam", tmp_path / "mpi")
    assert_same(found, single, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["auto", "horovodrun"])
def test_a_rank_that_was_killed_is_named(launcher: str, mpi: None, tmp_path: Path, no_strays: None) -> None:
    spec = make_spec(f"horovod:controller=mpi,launcher={launcher}", 2, steps=2000, inject=["kill:worker=1,step=50"])
    outcome = launch(spec, tmp_path)
    assert outcome.status == "failed"
    assert "worker-1 was killed by SIGKILL after step" in outcome.reason
