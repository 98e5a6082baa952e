"""``ps-tree``: which server is where, and that a deep tree with a root of several tasks is one parameter server."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import DATASET, RATE, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.harness.launch.run import collect
from stratbench.results.raw import journal
from stratbench.strategies.parameter_server.ps_tree import Node
from stratbench.strategies.registry import create

DEEP = "ps-tree:depth=3,ps=2"


def nodes(replicas: int, **options: object) -> dict[int, Node]:
    return create("ps-tree", options).nodes(replicas)


def test_the_leaves_of_two_levels_are_below_the_root() -> None:
    assert nodes(5) == {1: Node(None, [0, 1], 2), 2: Node(None, [2, 3], 2), 3: Node(None, [4], 1)}


def test_servers_between_collect_from_those_below_them() -> None:
    assert nodes(5, depth=3, ps=2) == {
        2: Node(None, [4, 5], 4),
        3: Node(None, [6], 1),
        4: Node(2, [0, 1], 2),
        5: Node(2, [2, 3], 2),
        6: Node(3, [4], 1),
    }
    found = nodes(9, depth=4)
    assert {task: found[task].above for task in range(6, 11)} == {6: 3, 7: 3, 8: 4, 9: 4, 10: 5}


@pytest.mark.parametrize("replicas", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_every_server_and_every_worker_is_below_one(replicas: int, depth: int) -> None:
    found = nodes(replicas, depth=depth, fanout=3)
    for task, node in found.items():
        assert node.members
        assert node.above is None or task in found[node.above].members
    assert sum(node.workers for node in found.values() if node.above is None) == replicas


def test_levels_of_single_servers_are_refused() -> None:
    assert create("ps-tree", {"depth": 3}).skip(5) is None
    assert create("ps-tree", {"depth": 3}).skip(4) == "4 workers with fanout=2 make 2 levels at most; use depth=2"
    assert "3 levels" in (create("ps-tree", {"depth": 4}).skip(8) or "")
    assert create("ps-tree", {"depth": 4}).skip(9) is None
    assert "2 levels" in (create("ps-tree", {"depth": 3, "fanout": 1}).skip(9) or "")


@pytest.mark.slow
def test_a_deep_tree_equals_single(tmp_path: Path, no_strays: None) -> None:
    """Of five workers; the servers between have four and one below them."""
    expected = weights("single", 1, "mlp", "momentum", tmp_path / "single", global_batch=50)
    found = weights(DEEP, 5, "mlp", "momentum", tmp_path / "run", global_batch=50)
    assert_same(found, expected, TOLERANCE["momentum"])


@pytest.mark.slow
def test_what_each_server_holds(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec(DEEP, 5, global_batch=50, optimizer="momentum", learning_rate=RATE["momentum"], dataset=DATASET)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    rows = {row["task"]: row["weights_bytes"] for row in collect(spec, tmp_path, outcome).tasks if row["role"] == "ps"}
    assert len(rows) == 7
    whole = rows[2]
    assert rows[0] + rows[1] == whole
    assert {rows[task] for task in range(2, 7)} == {whole}


@pytest.mark.slow
def test_the_servers_below_the_root_do_not_wait_for_one_another(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec("ps-tree:depth=3,mode=async", 5, global_batch=50, steps=8, inject=["slow:worker=4,seconds=1"])
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / f"worker-{worker}.jsonl") for worker in range(5)]
    numbers = [[int(each) for each in log.updates["update"]] for log in logs]
    # Workers 0 to 3 are below one of them, in two leaves: their updates are the same ones.
    assert numbers[0] == numbers[1] == numbers[2] == numbers[3]
    assert sorted(numbers[0] + numbers[4]) == list(range(16))
    assert max(numbers[0]) < max(numbers[4]), "the slow one is the last"
