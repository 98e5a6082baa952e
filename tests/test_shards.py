"""Which ps task holds what: parts of equal size, and tensors that come back whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import launch, make_spec
from hypothesis import given
from hypothesis import strategies as st
from stratbench.harness.launch.run import collect
from stratbench.strategies.parameter_server._shards import Shards

pytestmark = pytest.mark.slow

shapes = st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=8)


def loads(shards: Shards, servers: int) -> list[int]:
    found = [0] * servers
    for _, piece, shape in shards:
        assert math.prod(shape) == piece.end - piece.begin
        found[piece.server] += math.prod(shape)
    return found


@given(shapes, st.integers(1, 6))
def test_all_tasks_hold_the_same(shapes: list[tuple[int, ...]], servers: int) -> None:
    shards = Shards.of(shapes, servers)
    found = loads(shards, servers)
    assert sum(found) == sum(map(math.prod, shapes)) and max(found) - min(found) <= 1
    assert len(shards.cut_places) < servers


@given(shapes, st.integers(1, 6), st.data())
def test_what_must_not_be_cut_is_whole(shapes: list[tuple[int, ...]], servers: int, data: st.DataObject) -> None:
    whole = data.draw(st.sets(st.integers(0, len(shapes) - 1)) if shapes else st.just(set()))
    shards = Shards.of(shapes, servers, whole)
    assert not shards.cut_places & whole
    found, uncut = loads(shards, servers), [0] * servers
    for place, piece, shape in shards:
        uncut[piece.server] += math.prod(shape) if place in whole else 0
    assert sum(found) == sum(map(math.prod, shapes))
    # A task that holds more than another one does so by what can't be cut.
    assert all(load == held or load - min(found) <= 1 for load, held in zip(found, uncut, strict=True))


@given(shapes, st.integers(1, 6))
def test_pieces_are_put_together_again(shapes: list[tuple[int, ...]], servers: int) -> None:
    shards = Shards.of(shapes, servers)
    arrays = [np.arange(math.prod(shape), dtype="float32").reshape(shape) + place for place, shape in enumerate(shapes)]
    cut = shards.cut(arrays)
    assert [piece.shape for piece in cut] == [shape for _, _, shape in shards]
    for piece, tensor in zip(cut, shards.cut([tf.constant(each) for each in arrays]), strict=True):
        np.testing.assert_array_equal(piece, tensor)
    for array, tensor in zip(arrays, shards.join(cut), strict=True):
        np.testing.assert_array_equal(array, tensor)


@pytest.mark.parametrize("strategy", ["ps:sync=true,ps=3", "ps:mode=downpour,ps=3", "ps-tree:ps=3"])
def test_ps_tasks_of_a_run_hold_the_same(strategy: str, tmp_path, no_strays: None) -> None:
    spec = make_spec(strategy, 2, model="mlp", optimizer="momentum", steps=4)
    record = collect(spec, tmp_path, launch(spec, tmp_path))
    assert record.run["status"] == "ok", record.run["reason"]
    held = [task["weights_bytes"] for task in record.tasks if task["role"] == "ps"][:3]
    # 784·16 + 16·16 + 16·10 weights and 42 biases.
    assert sum(held) == 4 * 13_002 and max(held) - min(held) <= 4
