"""The ranks of Open MPI, for processes that stratbench starts.

A process is a rank of Open MPI if it has the variables that ``mpirun`` gives to what it starts: by them it finds
``mpirun`` again, which tells all ranks of one another. So ``mpirun``, run by rank 0, starts a small program for each
rank (`stratbench.strategies.collectives._mpi_rank`), which hands its variables over, and lives as long as rank 0.
Source: ``horovod/runner/mpi_run.py`` of Horovod 0.28.1 for the flags; https://docs.open-mpi.org/en/v5.0.x/launching-apps;
``PMIx_Init`` in the PMIx standard, https://pmix.github.io/standard.

Limits: one host. The ranks listen at its loopback address, ``mpirun`` at all of its addresses. Of MPICH and Intel MPI,
``horovodrun`` must start the ranks: they inherit an open file there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ...errors import RunError
from ..base import THIS_HOST
from . import _mpi_rank
from ._ranks import interface

BINDING = ("--bind-to", "none", "--map-by", "slot")
"""What ``horovodrun`` asks ``mpirun`` for, in the spelling that Open MPI 5 understands, too."""

_RANK, _SIZE = "STRATBENCH_MPI_RANK", "STRATBENCH_MPI_SIZE"
_FLAGS = ("--allow-run-as-root", *BINDING, "--mca", "pml", "ob1", "--mca", "btl", "^openib")
_POLL_SECONDS = 0.01
_END_SECONDS = 5.0
_OUTPUT = "mpirun.log"


@cache
def open_mpi() -> bool:
    """Whether the ``mpirun`` on PATH is Open MPI's."""
    if not shutil.which("mpirun"):
        return False
    try:
        answer = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return "Open MPI" in answer.stdout


def variables(replicas: int) -> list[dict[str, str]]:
    """The environment of each rank."""
    return [{_RANK: str(rank), _SIZE: str(replicas)} for rank in range(replicas)]


@contextmanager
def ranked(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Where `variables` has told this process its rank: ``environ`` is that of ``mpirun``'s rank.

    Raises RunError if ``mpirun`` fails.
    """
    if _RANK not in environ:
        yield
        return
    folder = Path(tempfile.gettempdir()) / "mpi"
    rank = int(environ[_RANK])
    if rank:
        environ.update(_handed_over(folder, rank))
        yield
        return
    with _mpirun(folder, int(environ[_SIZE])) as process:
        environ.update(_handed_over(folder, rank, process))
        yield


@contextmanager
def _mpirun(folder: Path, replicas: int) -> Iterator[subprocess.Popen[bytes]]:
    """It ends with the block, or with this process, however that ends."""
    loopback = ["--mca", "btl_tcp_if_include", interface(THIS_HOST)]
    command = ["mpirun", "-np", str(replicas), "-H", f"localhost:{replicas}", *_FLAGS, *loopback]
    program = [sys.executable, "-I", "-S", _mpi_rank.__file__, str(folder)]
    try:
        folder.mkdir()
        held = _mpi_rank.hold(folder)
        with (folder / _OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [*command, *program], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
    except OSError as error:
        raise RunError(f"mpirun can't be started: {error}") from None
    try:
        yield process
    finally:
        os.close(held)
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _handed_over(folder: Path, rank: int, mpirun: subprocess.Popen[bytes] | None = None) -> dict[str, str]:
    """Wait for the rank's variables. If they never come, rank 0 notices, or the launcher's time-out ends the run."""
    path = _mpi_rank.path(folder, rank)
    while not path.exists():
        if mpirun and mpirun.poll() is not None:
            lines = (folder / _OUTPUT).read_text(errors="replace").split("\n")
            said = " | ".join(line.strip() for line in lines if line.strip(" -"))[-500:]
            raise RunError(f"mpirun ended with exit code {mpirun.returncode}; its output ends: {said}")
        time.sleep(_POLL_SECONDS)
    found: dict[str, str] = json.loads(path.read_text())
    return found
