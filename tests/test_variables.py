"""Which environment a task and a job's launcher get; that no file of the current folder is taken for a module."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import launch, make_spec
from stratbench.errors import RunError
from stratbench.harness.job import recorder
from stratbench.harness.launch import launcher, trying
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan import variables
from stratbench.strategies.base import Task

SECRETS = {"SECRET_TOKEN": "hunter2", "AWS_KEY": "hunter2", "TF_TOKEN_app": "hunter2", "NVIDIA_API_KEY": "hunter2"}
NEEDED = {
    "PATH": "/bin",
    "LD_LIBRARY_PATH": "/lib",
    "HOROVOD_CYCLE_TIME": "2",
    "CUDA_VISIBLE_DEVICES": "",
    "LC_ALL": "C",
}
PLACE = {"HOROVOD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMI_RANK": "0", "TF_CONFIG": "{}"}


def test_a_launcher_gets_what_starting_needs_and_what_the_user_names() -> None:
    environ = {**SECRETS, **NEEDED, **PLACE, "OTHER": "1", "NAMED": "2"}
    assert variables.for_launcher(environ) == NEEDED
    passing = {"STRATBENCH_PASS": "NAMED, SECRET_TOKEN"}
    named = {"NAMED": "2", "SECRET_TOKEN": "hunter2"}
    assert variables.for_launcher(environ | passing) == NEEDED | passing | named


def test_its_workers_read_the_rest_but_not_a_place_in_another_job() -> None:
    environ = {**os.environ, **SECRETS, **PLACE, "OTHER": "1", "BASH_FUNC_x%%": "() { :; }"}
    program = "print('begun', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    starter = subprocess.Popen([sys.executable, "-Sc", program], env=environ, **pipes)
    try:
        # The kernel may not show the environment of a process that has only just become this program.
        starter.stdout.readline()
        given = {"OTHER": "mine", "PATH": "/bin"}
        variables.take_rest(starter.pid, given)
    finally:
        starter.communicate(b"\n")
    assert given["OTHER"] == "mine" and given["PATH"] == "/bin"
    assert {name: given[name] for name in SECRETS} == SECRETS
    assert not given.keys() & {*PLACE, "BASH_FUNC_x%%"}
    with pytest.raises(RunError, match="environment of the stratbench process"):
        variables.take_rest(starter.pid, given)


def test_a_task_of_ones_own_gets_all_but_a_cluster_of_the_users() -> None:
    assert variables.for_task({**SECRETS, "TF_CONFIG": "{}"}) == SECRETS


class StartedError(Exception):
    """In place of a process."""


@pytest.mark.parametrize("command", [(), ("horovodrun", "-np", "2")])
def test_tasks_start_without_the_current_folder_and_a_launcher_without_secrets(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def popen(arguments: list[str], **settings: object) -> None:
        given.update(settings, arguments=arguments)
        raise StartedError

    monkeypatch.setattr(launcher.subprocess, "Popen", popen)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    task = Task(command=command)
    with pytest.raises(StartedError):
        launcher.Launch([task], tmp_path, 1.0, threading.Event(), lambda label, event: None).run()
    worker = given["arguments"][len(command) :]
    assert worker[1:4] == ["-P", "-m", "stratbench.harness.worker"]
    assert ("SECRET_TOKEN" in given["env"]) is not bool(command)
    assert (given["env"].get("PYTHONSAFEPATH") == "1") is bool(command)


@pytest.mark.slow
def test_stray_modules_change_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None) -> None:
    for name in ("keras", "random", "numpy", "psutil", "stratbench"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the current folder')")
    monkeypatch.chdir(tmp_path)
    outcome = launch(make_spec(steps=2), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    program = [sys.executable, "-P", "-m", recorder.__name__]
    assert "a file of the current folder" not in subprocess.run(program, capture_output=True, text=True).stderr
    with pytest.raises(Exception, match="nowhere does not import"):
        trying.check([make_spec(model="nowhere:model")], Starter(forks=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference",
    ["horovod:launcher=horovodrun", pytest.param("horovod:elastic=true", marks=pytest.mark.exhaustive)],
)
def test_no_command_line_of_a_horovod_run_shows_a_secret(
    reference: str, tmp_path: Path, horovod: None, no_strays: None
) -> None:
    for name in ("keras", "random", "psutil", "horovod"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the current folder')")
    (tmp_path / "mymodel.py").write_text(
        "import os\n"
        "def model(shape, classes):\n"
        "    assert os.environ['SECRET_TOKEN'] == 'hunter2hunter2', 'the model needs it'\n"
        "    from keras import Input, Sequential, layers\n"
        "    return Sequential([Input(shape), layers.Flatten(), layers.Dense(classes)])\n"
    )
    work = ["-n", "2", "--model", "mymodel:model", "--dataset", "synthetic", "--global-batch", "32", "--steps", "60"]
    command = [sys.executable, "-P", "-m", "stratbench.harness.cli", "run", "-s", reference, *work, "--output", "out"]
    environ = {**os.environ, "SECRET_TOKEN": "hunter2hunter2"}
    run = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen: set[str] = set()
    while run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            try:
                seen.add(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.1)
    output = run.communicate()[0].decode()
    assert run.returncode == 0, output
    assert any("HOROVOD_RANK=1" in line for line in seen), "the workers' command lines were not seen"
    assert not any("hunter2" in line for line in seen)
