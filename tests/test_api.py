"""``stratbench.compare`` is the command of this name, for scripts and notebooks."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import stratbench
from stratbench.errors import UsageError

WORK = {"dataset": "synthetic:shape=8x8x1,classes=5,examples=300", "global_batch": 30, "steps": 3}


@pytest.mark.slow
def test_the_tables_are_those_of_this_call(tmp_path: Path, no_strays: None) -> None:
    output = tmp_path / "out"
    first = stratbench.compare("mlp", strategies="single", output=output, **WORK)
    assert first.runs["status"].tolist() == ["ok"] and len(first.steps) == 3
    second = stratbench.compare("mlp", strategies=["mirrored", "ps:sync=true"], replicas=[2], output=output, **WORK)
    assert second.runs["strategy"].tolist() == ["mirrored", "ps"]
    assert set(second.tasks["run_id"]) == set(second.runs["run_id"])
    assert len(stratbench.results.load(output).runs) == 3
    # Nothing is run again.
    again = stratbench.compare("mlp", strategies="single", output=output, **WORK)
    assert again.runs["started_at"].tolist() == first.runs["started_at"].tolist()


@pytest.mark.slow
def test_what_can_not_run_is_a_row(tmp_path: Path) -> None:
    tables = stratbench.compare(
        "mlp", strategies=["mirrored:cross_device_ops=nccl"], replicas=2, output=tmp_path / "out", **WORK
    )
    assert tables.runs["status"].tolist() == ["skipped"] and "needs GPUs" in tables.runs["reason"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_bach": 3}, "such as global_batch. Received: global_bach."),
        ({"strategy": "single"}, "Received: strategy."),
        ({"global_batch": "x"}, "'x' is not a valid integer"),
        ({"steps": 0}, "--steps must be greater than 0. Received: 0."),
        ({"strategies": []}, "'--strategy'"),
        ({"replicas": "two"}, "replicas must be whole numbers such as 1,2,4"),
        ({"model": lambda: None}, "Received: <lambda> of test_api."),
        ({"dataset": "mnits"}, "Did you mean 'mnist'"),
    ],
)
def test_bad_arguments_are_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    arguments = {"model": "mlp", "strategies": "single", "output": tmp_path / "out", **WORK} | changes
    with pytest.raises(UsageError) as caught:
        stratbench.compare(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value).replace('"', "'") and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_function_of_a_script_must_be_in_a_file(tmp_path: Path) -> None:
    script = """
        import stratbench
        def model(): pass
        try:
            stratbench.compare(model, "mnist-12k", strategies="single", global_batch=3)
        except stratbench.errors.UsageError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "as in 'model=\"my_file:model\"'. Received: model of this notebook or script." in said
    assert not list(tmp_path.iterdir())


def test_importing_it_loads_nothing() -> None:
    code = "import json, stratbench, sys; print(json.dumps([stratbench.compare.__name__, *sys.modules]))"
    name, *modules = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert name == "compare" and not {"tensorflow", "pandas", "click", "h5py"} & set(modules)


@pytest.mark.slow
def test_an_interrupt_ends_the_run_and_keeps_its_row(tmp_path: Path, no_strays: None) -> None:
    script = """
        import os, signal, stratbench, threading, time
        # A background process may ignore the signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        def interrupt():
            while not list(Path("out").glob("runs/*/worker-0.jsonl")):
                time.sleep(0.05)
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        work = {"dataset": "synthetic:shape=8x8x1,classes=5,examples=300", "global_batch": 30, "steps": 10**8}
        try:
            stratbench.compare("mlp", strategies=["single", "mirrored"], output="out", **work)
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "interrupted\n", done.stderr
    runs = stratbench.results.load(tmp_path / "out").runs
    assert len(runs) == 1 and "interrupted" in runs["reason"][0]
