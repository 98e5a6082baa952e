"""The laboratory of `make overhead-exchange` and `make predictions`, as far as it needs no namespaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import launch, make_spec
from stratbench.results.raw import journal
from stratbench.strategies import registry

LAB = Path(__file__).parent / "lab"


@pytest.fixture(autouse=True)
def laboratory(monkeypatch: pytest.MonkeyPatch, horovod: None) -> None:
    """Its strategy and models can be used here and in tasks."""
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.setenv("PYTHONPATH", str(LAB))
    from probe import Probe

    monkeypatch.setitem(registry.available(), Probe.name, Probe)


@pytest.mark.parametrize("part", ["forward", "computing", "communicating"])
def test_a_part_of_a_step_runs_by_itself(part: str, tmp_path: Path) -> None:
    outcome = launch(make_spec(f"probe:part={part}", 2, model="mlp", steps=3), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    losses = journal.read(tmp_path / "run" / "worker-0.jsonl").steps["loss"]
    assert len(losses) == 3
    assert (np.ptp(losses) == 0) == (part == "communicating")


def test_the_sleeping_model_takes_as_long_as_it_says(tmp_path: Path) -> None:
    outcome = launch(make_spec("single", model="sleeping:make", steps=5, global_batch=50), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    seconds = journal.read(tmp_path / "run" / "worker-0.jsonl").steps["step_seconds"]
    assert seconds.min() >= 50 * 0.001 * 7 / 9
