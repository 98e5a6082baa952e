"""Real processes and real faults: who died, how soon all is over, and that nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import launch, make_spec, processes_of
from stratbench.results.raw import journal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_strays")]

LONG = {"steps": 1_000_000, "per_replica_batch": 16}


class Injector:
    """Acts on a task once it has trained for a moment."""

    def __init__(self, label: str, action: Callable[[int], None]):
        self._label = label
        self._action = action
        self._pids: dict[str, int] = {}
        self.acted: float | None = None

    def __call__(self, label: str, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self._pids[label] = event["pid"]
        # Another worker's steps show that all are connected; the ps task itself has none.
        if event["event"] == "steps" and self.acted is None and event["rows"][-1][1] > 3:
            self.acted = time.monotonic()
            self._action(self._pids[self._label])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("strategy", "victim"),
    [
        ("multiworker", "worker-1"),
        pytest.param("horovod", "worker-0", marks=pytest.mark.exhaustive),
        ("horovod", "worker-1"),
        ("horovod:launcher=horovodrun", "worker-1"),
        ("horovod:controller=mpi", "worker-1"),
        pytest.param("ps", "worker-1", marks=pytest.mark.exhaustive),
        ("ps", "ps-0"),
        pytest.param("mirrored", "worker-0", marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_task_ends_all_and_is_named(strategy: str, victim: str, tmp_path: Path, request: Any) -> None:
    if strategy.startswith("horovod"):
        request.getfixturevalue("horovod")
    spec = make_spec(strategy, 2, **LONG)
    unable = spec.skip()
    if unable:
        pytest.skip(unable)
    injector = Injector(victim, kill)
    outcome = launch(spec, tmp_path, listen=injector)
    assert injector.acted is not None, outcome.reason
    assert time.monotonic() - injector.acted < 20
    assert outcome.status == "failed"
    assert f"{victim} was killed by SIGKILL" in outcome.reason
    assert "its log ends" in outcome.reason
    assert outcome.tasks[victim] == "killed by SIGKILL"
    assert not processes_of(tmp_path)


def test_a_stalled_run_times_out(tmp_path: Path) -> None:
    stall = Injector("worker-0", lambda pid: os.kill(pid, signal.SIGSTOP))
    outcome = launch(make_spec("single", **LONG | {"timeout": 3.0}), tmp_path, listen=stall)
    # Starting up takes longer than this on a slow machine: also a stall, but another one.
    assert outcome.status == "timeout"
    assert "no progress for 3 s" in outcome.reason


def test_an_interrupt_ends_the_run_and_keeps_its_steps(tmp_path: Path) -> None:
    stop = threading.Event()
    outcome = launch(make_spec("ps", 2, **LONG), tmp_path, stop, Injector("worker-0", lambda pid: stop.set()))
    assert outcome.status == "failed"
    assert outcome.reason.startswith("interrupted after step")
    # Workers of ps do not wait for each other: one may not have begun.
    assert any(len(journal.read(path).steps) for path in tmp_path.glob("worker-*.jsonl"))


def test_a_loss_that_turns_nan_names_the_step(tmp_path: Path) -> None:
    outcome = launch(make_spec("mirrored", 2, learning_rate=1e30), tmp_path)
    assert outcome.status == "failed"
    assert "the loss became" in outcome.reason and "at step" in outcome.reason


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("multiworker", marks=pytest.mark.exhaustive),
        "horovod",
        pytest.param("horovod:launcher=horovodrun", marks=pytest.mark.exhaustive),
        "ps:sync=true",
    ],
)
def test_the_reason_is_the_error_that_caused_the_others(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    if strategy.startswith("horovod"):
        request.getfixturevalue("horovod")
    (tmp_path / "nan_in_one.py").write_text(
        "import json, os, keras\n"
        "def make(shape, classes):\n"
        "    index = json.loads(os.environ['STRATBENCH_TASK']).get('index', os.environ.get('HOROVOD_RANK'))\n"
        "    scale = float('nan') if int(index) == 1 else 1.0\n"
        "    layers = [keras.layers.Flatten(), keras.layers.Rescaling(scale), keras.layers.Dense(classes)]\n"
        "    return keras.Sequential([keras.Input(shape), *layers])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = launch(make_spec(strategy, 2, model="nan_in_one:make"), tmp_path / "run")
    assert outcome.status == "failed"
    assert outcome.reason == "worker-1: the loss became nan at step 0"


def test_ps_and_workers_listen_on_their_ports(tmp_path: Path) -> None:
    stop = threading.Event()
    listening: dict[str, set[int]] = {}

    def look(pid: int) -> None:
        deadline = time.monotonic() + 60
        # A worker may train before another one has started its server.
        while len(listening) < 5 and time.monotonic() < deadline:
            for process in processes_of(tmp_path):
                ports = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
                listening.update({str(process.pid): ports} if ports else {})
        stop.set()

    launch(make_spec("ps:ps=2", 3, **LONG), tmp_path, stop, Injector("worker-0", look))
    assert len(listening) == 5
    assert len(set().union(*listening.values())) == 5


def test_horovodrun_is_in_the_process_tree(tmp_path: Path, horovod: None) -> None:
    stop = threading.Event()
    parents: list[str] = []

    def look(pid: int) -> None:
        parents.extend(" ".join(parent.cmdline()) for parent in psutil.Process(pid).parents())
        stop.set()

    launch(make_spec("horovod:launcher=horovodrun", 2, **LONG), tmp_path, stop, Injector("worker-1", look))
    assert any("horovodrun -np 2" in command for command in parents)


def test_horovods_processes_do_not_listen_on_every_interface(tmp_path: Path, horovod: None) -> None:
    stop = threading.Event()
    addresses: dict[str, set[str]] = {}

    def look(pid: int) -> None:
        for process in processes_of(tmp_path):
            listening = [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            addresses[str(process.pid)] = set(listening)
        stop.set()

    launch(make_spec("horovod", 2, **LONG), tmp_path, stop, Injector("worker-1", look))
    # Horovod's process sets listen where the host's name leads, whatever interface they are told.
    found = set().union(*addresses.values())
    assert "127.0.0.1" in found and not found & {"0.0.0.0", "::"}


def test_a_taken_port_is_the_reason(tmp_path: Path) -> None:
    from stratbench.errors import RunError

    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} is taken"):
            launch(make_spec(f"ps:port={port}", 2), tmp_path)


@pytest.mark.parametrize(
    "strategy", ["ps", pytest.param("horovod", marks=pytest.mark.exhaustive), "horovod:launcher=horovodrun"]
)
def test_tasks_end_when_the_launcher_is_killed(strategy: str, tmp_path: Path, request: Any) -> None:
    if strategy.startswith("horovod"):
        request.getfixturevalue("horovod")
    command = [
        sys.executable,
        "-m",
        "stratbench.harness.cli",
        "run",
        "-s",
        strategy,
        "-n",
        "2",
        "--model",
        "mlp",
    ]
    command += [
        "--dataset",
        "synthetic",
        "--per-replica-batch",
        "16",
        "--steps",
        "1000000",
        "--output",
        str(tmp_path),
    ]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("runs/*/worker-1.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(tmp_path)
