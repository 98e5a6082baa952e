"""Anything may be killed at any moment: nothing is left, and nothing that was recorded is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import make_spec, processes_of
from stratbench import results
from stratbench.harness.launch.run import run_one
from stratbench.harness.launch.starter import Starter
from stratbench.results.raw import run_folder
from stratbench.results.tables.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(3000)]

STRATEGIES = ["ps", "ps:restart=true", "ps:checkpoint_every=20", "multiworker", "horovod", "allgather", "pipeline"]
STRATEGIES += ["allreduce", "gossip:graph=random", "parameter-server", "sandblaster"]


def test_fifty_kills_at_random_moments_leave_nothing(tmp_path: Path) -> None:
    """Any task of any kind of run, the fork server, or an interrupt; start-up and evaluation included."""
    random.seed(4)
    with Store(tmp_path) as store, Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:
        for number in range(50):
            spec = make_spec(random.choice(STRATEGIES), 2, seed=number, steps=1500, per_replica_batch=16, timeout=30.0)
            folder, stop = tmp_path / "runs" / spec.run_id, threading.Event()
            kind, seconds = random.choice(["task", "task", "server", "interrupt"]), random.uniform(0, 4)
            killer = threading.Timer(seconds, _strike, (kind, folder, starter, stop))
            killer.start()
            record = run_one(spec, store, stop, lambda label, event: None, starter=starter)
            killer.cancel()
            killer.join()
            methods = {task["start_method"] for task in record.tasks}
            print(number, kind, f"{seconds:.2f} s", spec.title, record.run["status"], record.run["reason"], methods)
            assert record.run["status"] in ("ok", "failed", "timeout")
            assert not processes_of(tmp_path), record.run
            assert len(store.runs()) == number + 1


def _strike(kind: str, folder: Path, starter: Starter, stop: threading.Event) -> None:
    victims = processes_of(folder)
    if kind == "interrupt":
        stop.set()
    elif kind == "server" and starter.pids:
        os.kill(starter.pids[0], signal.SIGKILL)
    elif kind == "task" and victims:
        try:
            random.choice(victims).kill()
        except psutil.NoSuchProcess:
            return


def test_twenty_commands_that_are_ended_at_random_moments_lose_no_row(tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM and SIGKILL; the same command afterwards has every run, and keeps those that were ok."""
    random.seed(5)
    work = ["--model", "mlp", "--dataset", "synthetic", "--global-batch", "32", "--steps", "100"]
    grid = ["-s", "single", "-s", "ps", "-s", "horovod", "-s", "multiworker", "-n", "1,2"]
    for number in range(20):
        output = tmp_path / str(number)
        command = [sys.executable, "-P", "-m", "stratbench.harness.cli", "compare", *grid, *work, "--output", output]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.2, 14))
        everyone = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        how = random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        process.send_signal(how)
        process.wait(60)
        _, left = psutil.wait_procs(everyone, 15)
        assert not left and not processes_of(output)
        ok = [folder.name for folder in run_folder.recorded(output) if run_folder.load(folder).run["status"] == "ok"]
        print(number, how.name, process.returncode, len(ok))
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        with Store(output) as store:
            rows = store.runs()
        assert len(rows) == 7 and set(rows.values()) == {"ok"} and set(ok) <= rows.keys()


def test_two_hundred_runs_of_one_command_make_the_fork_server_no_larger(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:
        sizes = []
        for number in range(200):
            spec = make_spec(seed=number, steps=5)
            record = run_one(spec, store, threading.Event(), lambda label, event: None, starter=starter)
            assert record.run["status"] == "ok"
            server = psutil.Process(starter.pids[0])
            sizes.append((server.num_fds(), server.memory_info().rss, psutil.Process().num_fds()))
    print(sizes[9], sizes[-1])
    assert sizes[-1][0] == sizes[9][0] and sizes[-1][2] <= sizes[9][2]
    assert sizes[-1][1] < sizes[9][1] * 1.01


def test_fifty_kills_of_a_group_during_one_comparison_lose_no_row(tmp_path: Path) -> None:
    """After each the tables can be read, and hold what they held; the same command then completes the grid."""
    random.seed(6)
    work = ["--model", "mlp", "--dataset", "synthetic", "--global-batch", "32", "--steps", "60", "--repeats", "24"]
    grid = ["-s", "single", "-s", "ps", "-s", "mirrored", "-s", "multiworker", "-n", "1,2"]
    command = [sys.executable, "-P", "-m", "stratbench.harness.cli", "compare", *grid, *work, "--output", str(tmp_path)]
    ended: set[str] = set()
    for number in range(50):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # By runs, so that neither a quick machine has done them all before, nor a slow one none.
        enough = len(run_folder.recorded(tmp_path)) + random.randint(0, 3)
        while len(run_folder.recorded(tmp_path)) < enough and process.poll() is None:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 3))
        assert process.poll() is None, "the comparison ended before it was killed"
        everyone = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        _, left = psutil.wait_procs(everyone, 15)
        assert not left and not processes_of(tmp_path)
        recorded = {folder.name for folder in run_folder.recorded(tmp_path) if _is_ok(folder)}
        found = _ok_in_tables(tmp_path)
        print(number, process.returncode, len(recorded), len(found))
        # A record may have been saved and not yet added: the next command does that.
        assert found >= ended and len(recorded - found) <= 1
        ended = found
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(_ok_in_tables(tmp_path)) == 24 * 7 and _ok_in_tables(tmp_path) >= ended


def _is_ok(folder: Path) -> bool:
    return run_folder.load(folder).run["status"] == "ok"


def _ok_in_tables(output: Path) -> set[str]:
    if not (output / "results.h5").exists():
        return set()
    runs = results.load(output).runs
    return set(runs[runs["status"] == "ok"]["run_id"])
