"""How strategies say which shards they read, and what becomes of `single`'s parts where they can't be."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import make_spec
from dataset_helpers import message
from stratbench.harness.worker.inject import Injected
from stratbench.strategies.trainer import StepResult, Trainer


class Several(Trainer):
    """Reads two of four shards."""

    rank, shards, shard, count = 1, 4, 2, 2

    def step(self, batch: Any, learning_rate: float) -> StepResult:
        return StepResult(None, 0)

    def weights(self) -> list[Any]:
        return []


def test_faults_leave_the_shards_as_they_are() -> None:
    around = Injected(Several(), SimpleNamespace(), 0)
    assert (around.rank, around.shards, around.shard, around.count) == (1, 4, 2, 2)


def test_parts_are_for_static_sharding() -> None:
    assert make_spec("single:parts=2", sharding="static").skip() is None
    assert make_spec("single", sharding="static").skip() is None
    expected = "parts=2 has no effect with --sharding batch; leave it out, or use --sharding static"
    assert make_spec("single:parts=2").skip() == expected


@pytest.mark.parametrize(
    ("options", "batch", "received"),
    [("parts=5", 48, "5"), ("parts=2,mode=sgd", 1, "2"), ("parts=7,mode=bgd", 960, "7")],
)
def test_parts_divide_the_global_batch(options: str, batch: int, received: str) -> None:
    text = message(lambda: make_spec(f"single:{options}", sharding="static"))
    assert text == f"option parts of strategy single must divide the global batch, {batch}. Received: {received}."
    assert "parts" in message(lambda: make_spec("single:parts=0"))
