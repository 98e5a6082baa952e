"""Shared by all tests: an in-process command line, real runs with their folders, and no stray process afterwards."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from command_line import call
from stratbench.harness.cli import commands as cli
from stratbench.harness.cli import comparing, session
from stratbench.harness.launch import starter
from stratbench.harness.launch.launcher import Launch, Outcome
from stratbench.harness.launch.ports import Ports
from stratbench.harness.launch.run import prepare, tasks_of
from stratbench.harness.launch.starter import Starter
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.spec import RunSpec
from stratbench.strategies.base import Place

_NUMBERS = itertools.count()
STARTER = Starter(ignored=["PYTEST_CURRENT_TEST"])
"""Of all tests' runs but those that are about how a task is started."""
DATA = Path(__file__).parents[2] / "shared" / "data"
THOROUGH = Path(__file__).with_name("thorough.txt")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests of `THOROUGH`. A line that no test answers to is an error, if all tests were collected."""
    listed = {line for line in THOROUGH.read_text().splitlines() if not line.startswith("#")}
    met = set()
    for item in items:
        name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        if found := listed & {name, name.partition("[")[0]}:
            met |= found
            item.add_marker(pytest.mark.thorough)
    if config.args == config.getini("testpaths") and (unknown := sorted(listed - met)):
        raise pytest.UsageError(f"{THOROUGH.name} must name tests that exist. Received: {unknown[0]}")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the data of all models of `any_models`."""
    import any_models

    path = tmp_path_factory.mktemp("data") / "data.h5"
    any_models.write(path)
    return path


@pytest.fixture
def beside_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' folder is the current one, from which users' models are imported."""
    monkeypatch.chdir(Path(__file__).parent)


def make_spec(strategy: str = "single", replicas: int = 1, **changes: Any) -> RunSpec:
    """A small spec on synthetic data."""
    settings: dict[str, Any] = {
        "model": "mlp",
        "dataset": "synthetic:shape=28x28x1,classes=10,examples=1200",
        "steps": 20,
        "cores_per_replica": 1,
        "timeout": 120.0,
    }
    if "per_replica_batch" not in changes:
        settings["global_batch"] = 48
    settings |= changes
    return Experiment(strategies=[strategy], replicas=[replicas], **settings).expand()[0]


def launch(
    spec: RunSpec,
    folder: Path,
    stop: threading.Event | None = None,
    listen: Any = None,
    place: Place | None = None,
    starter: Starter = STARTER,
    reacts: bool = False,
) -> Outcome:
    """Run the spec's real processes, without a store; by default on this machine.

    Args:
        reacts: whether the run goes on after a death, if the strategy says so.
    """
    prepare(spec, folder)
    with Ports() as ports:
        ignore = lambda label, event: None  # noqa: E731
        stop = stop or threading.Event()
        tasks = tasks_of(spec, place or ports)
        react = {"react": spec.create_strategy().after_death} if reacts else {}
        return Launch(tasks, folder, spec.timeout, stop, listen or ignore, starter=starter, **react).run()


def kept(folder: Path) -> list[list[np.ndarray]]:
    """All weights of each copy in a run's folder, in the order of the steps; those of several tasks together."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for path in folder.glob("step-*.npz"):
        with np.load(path) as saved:
            own = found.setdefault(int(path.name.split(".")[0].removeprefix("step-")), {})
            own |= {int(name): saved[name] for name in saved.files}
    return [[own[position] for position in range(len(own))] for _, own in sorted(found.items())]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.fixture(scope="session", autouse=True)
def one_fork_server() -> Iterator[None]:
    """Commands that are called within this process fork their tasks from the tests' server, which ends after all."""

    def shared(forks: bool = True) -> AbstractContextManager[Starter]:
        return nullcontext(STARTER) if forks else Starter(forks=False)

    with STARTER, pytest.MonkeyPatch.context() as patch:
        for module in (starter, comparing):
            patch.setattr(module, "Starter", shared)
        yield


@pytest.fixture
def no_strays(tmp_path: Path) -> Iterator[None]:
    """Fails a test that leaves a process working in its folder."""
    yield
    left = processes_of(tmp_path)
    for process in left:
        process.kill()
    assert not left, f"processes left: {left}"


@pytest.fixture
def horovod() -> None:
    """Skips where Horovod is not installed."""
    from stratbench.strategies.collectives._build import status

    problem = status().problem
    if problem:
        pytest.skip(problem)


Write = Callable[[str], str]


@pytest.fixture
def write(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a module in this folder of the test module's HEAD and a text; gives the reference of its ``make``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def module(text: str) -> str:
        name = f"user_model_{next(_NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(request.module.HEAD + text)
        importlib.invalidate_caches()
        return f"{name}:make"

    return module


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And in no job of a launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The runs that a command would make, in place of making them."""
    specs: list[RunSpec] = []

    def record(wanted: list[RunSpec], *others: Any) -> tuple[list[Any], int]:
        specs.extend(wanted)
        return [], 0

    monkeypatch.setattr(session, "run_specs", record)
    monkeypatch.setattr(cli, "_print_folder", lambda *_: None)
    return specs


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls a command that must be refused, with one line on standard error, and gives that line."""

    def refuse(*arguments: str) -> str:
        code = call(*arguments)
        out, error = capsys.readouterr()
        assert (code, out) == (2, ""), error
        assert error.startswith("stratbench: ") and error.endswith("\n")
        assert len(error.splitlines()) == 1, error
        return error

    return refuse
