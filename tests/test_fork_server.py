"""Tasks that are forked are the same as fresh ones, and the fork server leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import make_spec, processes_of
from stratbench.harness.launch.fork_server import ForkServer
from stratbench.harness.launch.processes import alive
from stratbench.harness.launch.run import run_one
from stratbench.harness.launch.starter import WORKER, Starter
from stratbench.results.raw.record import Record
from stratbench.results.tables.store import Store

SAME = ["single", "horovod"]
OTHERS = [
    *("mirrored", "multiworker", "ps:sync=true", "horovod:launcher=horovodrun"),
    *("allgather", "master-worker", "local-sgd", "fsdp"),
]


def run(folder: Path, starter: Starter, strategy: str = "single", listen: Any = None, **changes: Any) -> Record:
    replicas = 1 if strategy == "single" else 2
    with Store(folder) as store:
        ignore = lambda label, event: None  # noqa: E731
        spec = make_spec(strategy, replicas, **{"timeout": 60.0} | changes)
        return run_one(spec, store, threading.Event(), listen or ignore, starter=starter)


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as one:
        yield one


def methods(record: Record) -> set[str]:
    return {task["start_method"] for task in record.tasks}


def losses(record: Record) -> dict[tuple[int, int], float]:
    """By task and step."""
    task, step, loss = (record.steps[name].tolist() for name in ("task", "step", "loss"))
    return dict(zip(zip(task, step, strict=True), loss, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [*SAME, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)])
def test_a_forked_task_does_what_a_fresh_one_does(
    strategy: str, starter: Starter, tmp_path: Path, no_strays: None, request: pytest.FixtureRequest
) -> None:
    if strategy in ("horovod", *OTHERS):
        request.getfixturevalue("horovod")
    by_horovodrun = strategy.endswith("horovodrun")
    forked = run(tmp_path / "forked", starter, strategy.partition(":launcher")[0], model="cnn")
    fresh = run(tmp_path / "fresh", Starter(forks=False), strategy, model="cnn")
    assert (forked.run["status"], fresh.run["status"]) == ("ok", "ok"), (forked.run["reason"], fresh.run["reason"])
    assert methods(forked) == {"forked"}
    assert methods(fresh) == {f"fresh: {'horovodrun starts it' if by_horovodrun else 'forking is turned off'}"}
    assert losses(forked) == losses(fresh)
    for name in ("final_loss", "test_loss", "test_accuracy", "parameters", "examples_done"):
        assert forked.run[name] == fresh.run[name]
    peaks = [sorted(task["peak_rss_bytes"] for task in each.tasks) for each in (forked, fresh)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.1)


@pytest.mark.slow
def test_a_fork_server_that_dies_ends_the_run_and_the_next_run_has_another(tmp_path: Path, no_strays: None) -> None:
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:

        def kill(label: str, event: dict[str, Any]) -> None:
            if event["event"] == "steps" and starter.pids:
                os.kill(starter.pids[0], signal.SIGKILL)
                psutil.Process(event_pid[label]).kill()
            if event["event"] == "start":
                event_pid[label] = event["pid"]

        event_pid: dict[str, int] = {}
        record = run(tmp_path / "first", starter, steps=100_000, listen=kill)
        assert record.run["status"] == "failed"
        assert "worker-0 was lost without an exit code" in record.run["reason"]
        assert methods(record) == {"forked"}
        again = run(tmp_path / "second", starter)
        assert again.run["status"] == "ok" and methods(again) == {"forked"}


@pytest.mark.slow
def test_a_fork_server_that_is_killed_while_it_imports_is_replaced(tmp_path: Path, no_strays: None) -> None:
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:

        def kill() -> None:
            while not starter.pids:
                time.sleep(0.01)
            os.kill(starter.pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        first = run(tmp_path / "first", starter)
        killer.join()
        assert methods(first) == {"fresh: the fork server ended before it was ready"}
        assert methods(run(tmp_path / "second", starter)) == {"forked"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_run_whose_tasks_end_well_is_ok_whatever_happens_to_the_fork_server(
    number: int, tmp_path: Path, no_strays: None
) -> None:
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:

        def injure(label: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready" and label == "worker-0":
                os.kill(starter.pids[0], number)

        record = run(tmp_path / "first", starter, "multiworker", listen=injure, timeout=30.0)
        assert record.run["status"] == "ok", record.run["reason"]
        assert methods(record) == {"forked"}


@pytest.mark.slow
def test_ctrl_c_while_the_fork_server_imports_starts_nothing(tmp_path: Path, no_strays: None) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter, Store(tmp_path) as store:
        begin = time.monotonic()
        record = run_one(make_spec(), store, stop, lambda label, event: None, starter=starter)
        assert time.monotonic() - begin < 5
    assert record.run["reason"] == "interrupted before the first step" and not list(tmp_path.glob("runs/*/*.jsonl"))


@pytest.mark.slow
def test_another_environment_is_a_fresh_start_and_the_row_says_why(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    run(tmp_path / "first", starter)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    record = run(tmp_path / "second", starter)
    assert methods(record) == {"fresh: TF_ENABLE_ONEDNN_OPTS differs from the fork server's"}
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert methods(run(tmp_path / "third", starter)) == {"fresh: OPENBLAS_NUM_THREADS is set"}


@pytest.mark.slow
def test_a_process_with_threads_is_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    with Starter(ignored=["PYTEST_CURRENT_TEST"]) as starter:
        for name in ("first", "second"):
            record = run(tmp_path / name, starter)
            assert record.run["status"] == "ok" and methods(record) == {"fresh: imports left 2 threads"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ForkServer]:
    one = ForkServer(os.environ | {"OPENBLAS_NUM_THREADS": "1", "KERAS_BACKEND": "tensorflow"})
    assert one.wait_ready(threading.Event())
    yield one
    one.close()


def test_many_tasks_make_the_server_no_larger(own: ForkServer, tmp_path: Path) -> None:
    """They end at once, as their folder has no spec."""
    process = psutil.Process(own.pid)

    def some(count: int) -> tuple[int, int]:
        tasks = [own.fork(WORKER, tmp_path, os.environ, tmp_path / "log") for _ in range(count)]
        assert [task.wait(60) for task in tasks if task] == [1] * count
        return process.num_fds(), process.memory_info().rss

    (descriptors, memory), (later_descriptors, later_memory) = some(10), some(100)
    assert later_descriptors == descriptors
    assert later_memory < memory * 1.02
    assert "FileNotFoundError" in (tmp_path / "log").read_text()


def test_siblings_have_their_own_random_numbers() -> None:
    script = (
        "import os, random, sys, numpy as np\n"
        "from stratbench.harness.worker.fork_server import _be_another\n"
        "random.seed(1); np.random.seed(1)\n"
        "for _ in range(2):\n"
        "    if not (pid := os.fork()):\n"
        "        _be_another('module', 'folder')\n"
        "        print(random.random(), np.random.random(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = (line.split() for line in done.stdout.splitlines())
    assert first[0] != second[0] and first[1] != second[1]


def test_a_task_is_named_by_its_folder_and_ends_by_a_signal_that_is_told(own: ForkServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.json")
    task = own.fork(WORKER, tmp_path, os.environ, tmp_path / "log")
    assert task and task.poll() is None
    deadline = time.monotonic() + 20
    while not processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [process.pid for process in processes_of(tmp_path)] == [task.pid]
    with pytest.raises(subprocess.TimeoutExpired):
        task.wait(0.1)
    task.terminate()
    assert task.wait(20) == -signal.SIGTERM
    assert not psutil.pid_exists(task.pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGTERM, signal.SIGKILL]
)
def test_a_command_that_is_ended_leaves_no_fork_server(number: int, tmp_path: Path, no_strays: None) -> None:
    work = ["--dataset", "synthetic", "--global-batch", "32", "--steps", "1000000", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-P", "-m", "stratbench.harness.cli", "run", "-s", "ps", "-n", "2", *work]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/runs/*/worker-0.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = psutil.Process(process.pid).children(recursive=True)
    assert any("fork_server" in " ".join(child.cmdline()) for child in left)
    process.send_signal(number)
    # Not waited for: a parent that nobody reaps is dead, too.
    deadline = time.monotonic() + 45
    while any(map(alive, [*left, psutil.Process(process.pid)])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [each.pid for each in left if alive(each)]
    process.wait(5)


@pytest.mark.slow
def test_tasks_that_do_not_notice_the_end_of_the_command_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    """One is stopped. The other waits for it within TensorFlow, where none of its Python threads can run."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    work = ["--model", "mlp", "--dataset", "synthetic", "--global-batch", "32", "--steps", "5"]
    command = [sys.executable, "-P", "-m", "stratbench.harness.cli", "run", "-s", "multiworker", "-n", "2", *work]
    process = subprocess.Popen([*command, "--output", tmp_path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tasks = list[psutil.Process]()
    deadline = time.monotonic() + 60
    while len(tasks) < 2 and time.monotonic() < deadline:
        tasks = [each for each in processes_of(tmp_path / "runs") if WORKER in each.cmdline()]
    first, second = sorted(tasks, key=lambda each: each.pid)
    left = psutil.Process(process.pid).children(recursive=True)
    second.suspend()
    deadline = time.monotonic() + 10
    while first.num_threads() < 50 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait(5)
    deadline = time.monotonic() + 15
    while any(map(alive, left)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [each for each in left if alive(each)]
    assert not list((tmp_path / "temporary").iterdir())
