"""``parameter-server``: what its coordinator does when tasks die, wait or are slow, and what each task holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import kept, launch, make_spec
from stratbench.harness.launch.run import collect
from stratbench.results.raw import journal
from stratbench.strategies import registry
from stratbench.strategies.base import Reaction, Task

SYNC = "parameter-server:mode=sync"


def test_the_others_do_the_work_of_a_remote_worker_that_died() -> None:
    strategy = registry.create("parameter-server", {})
    first, second, coordinator = Task("remote", 0), Task("remote", 1), Task("worker", 0)
    everyone = [first, second, coordinator]
    assert strategy.after_death(first, [second, coordinator], everyone) is Reaction.GO_ON
    assert strategy.after_death(second, [coordinator], everyone) is Reaction.END
    assert strategy.after_death(coordinator, [first, second], everyone) is Reaction.END
    assert strategy.after_death(Task("ps", 0), everyone, everyone) is Reaction.END


@pytest.mark.slow
def test_a_dead_remote_worker_changes_no_result(tmp_path: Path, no_strays: None, keep_weights: None) -> None:
    work = {"optimizer": "momentum", "learning_rate": 0.05, "dataset": "mnist-12k"}
    outcome = launch(make_spec(SYNC, 2, inject=["kill:remote=1,step=8"], **work), tmp_path / "killed", reacts=True)
    assert outcome.status == "ok", outcome.reason
    assert outcome.tasks["remote-1"] == "killed by SIGKILL"
    assert launch(make_spec("single", **work), tmp_path / "single").status == "ok"
    found, expected = (kept(tmp_path / name)[-1] for name in ("killed", "single"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture
def keep_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from stratbench.harness.worker.main import KEEP_VARIABLE

    monkeypatch.setenv(KEEP_VARIABLE, "1")


@pytest.mark.slow
def test_a_dead_ps_task_ends_the_run(tmp_path: Path, no_strays: None) -> None:
    outcome = launch(make_spec(SYNC, 2, inject=["kill:ps=0,step=5"]), tmp_path, reacts=True)
    assert outcome.status == "failed"
    assert "ps-0 was killed by SIGKILL" in outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["pause:remote=1,step=5,seconds=2", "slow:remote=1,seconds=0.3"])
def test_a_remote_worker_that_is_late_holds_up_the_step(fault: str, tmp_path: Path, no_strays: None) -> None:
    spec = make_spec(SYNC, 2, steps=12, inject=[fault])
    outcome = launch(spec, tmp_path, reacts=True)
    assert outcome.status == "ok", outcome.reason
    seconds = journal.read(tmp_path / "worker-0.jsonl").steps["step_seconds"][2:]
    assert seconds.max() > 1.5 if fault.startswith("pause") else np.median(seconds) > 0.3


@pytest.mark.slow
def test_weights_and_state_are_on_the_ps_tasks(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec("parameter-server:mode=sync,ps=2", 3, optimizer="momentum", learning_rate=0.05)
    outcome = launch(spec, tmp_path, reacts=True)
    assert outcome.status == "ok", outcome.reason
    rows = {f"{row['role']}-{row['task']}": row for row in collect(spec, tmp_path, outcome).tasks}
    weights = sum(row["weights_bytes"] for row in rows.values())
    model = 4 * journal.read(tmp_path / "worker-0.jsonl").ready["parameters"]
    assert weights == model
    assert rows["worker-0"]["weights_bytes"] == rows["remote-0"]["weights_bytes"] == 0
    assert rows["remote-2"]["transient_bytes"] == model
    assert sum(rows[f"ps-{index}"]["transient_bytes"] for index in range(2)) == 3 * model
