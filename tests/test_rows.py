"""Of large embedding tables, `ps` and `horovod` exchange only the rows that a batch needs; `single` updates these."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import rows_models
import tensorflow as tf
from conformance import RATE, STEPS, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.harness.plan import optimizers
from stratbench.harness.worker.workload import _DENSE as DENSE_WORDS
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal
from stratbench.strategies._shared.keras_rule import KerasRule
from stratbench.strategies._shared.lookups import each_row_once
from stratbench.strategies._shared.rows import kept_as_rows
from stratbench.strategies._shared.update_rules import has_kernel, update_of
from stratbench.strategies.parameter_server._lookup import tables_of
from stratbench.strategies.parameter_server._source import Source
from test_ps_rules import RATES, WEIGHT, make

pytestmark = pytest.mark.slow

v1 = tf.compat.v1


def exhaustive(*case: str) -> Any:
    """Left out of every commit's tests."""
    return pytest.param(*case, marks=pytest.mark.exhaustive)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "data.h5"
    with h5py.File(path, "w") as file:
        # Few ids are frequent, so that they repeat within a batch.
        ids = (random.random((1200, rows_models.LENGTH)) ** 3 * rows_models.IDS).astype("int32")
        file["x"], file["y"] = ids, (ids.sum(axis=1) % rows_models.CLASSES).astype("int32")
    return f"hdf5:{path}"


@pytest.fixture(autouse=True)
def beside_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


def work(case: str, data: str) -> dict[str, Any]:
    return {"model": f"rows_models:{case}", "dataset": data}


class TestTables:
    @pytest.mark.parametrize(
        ("case", "expected"),
        [
            ("two_lookups", {"table": 24 * 5}),
            ("masked", {"table": 24 * 4}),
            ("small", {"table": 24 * 4}),
            ("regularised", {}),
            ("tied", {}),
            ("looping", {}),
        ],
    )
    def test_are_those_of_which_a_step_needs_rows_only(self, case: str, expected: dict[str, int], data: str) -> None:
        workload = SpecWorkload(make_spec("ps", 2, **work(case, data)))
        model = Source.of(workload).model
        found = {
            model.trainable_variables[place].path.split("/")[0]: ids
            for place, ids in tables_of(workload, model).items()
        }
        assert found == expected

    def test_a_batch_that_needs_most_of_a_table_gets_all_of_it(self, data: str) -> None:
        workload = SpecWorkload(make_spec("ps", 2, **work("masked", data), global_batch=120))
        assert not tables_of(workload, Source.of(workload).model)


@pytest.mark.parametrize("text", ["sgd", "adagrad", "momentum", "adam", "rmsprop", "ftrl"])
def test_rows_are_updated_as_the_whole_weight_is(text: str) -> None:
    """In a graph, by a kernel or Keras's own rule."""
    settings = optimizers.parse(text).settings | {"learning_rate": 0.5}
    random = np.random.default_rng(1)
    steps = [(np.sort(random.permutation(6)[:3]), random.normal(size=(3, 4)).astype("float32")) for _ in RATES]
    results = []
    for sparse in (True, False):
        rule = None if has_kernel(settings) else KerasRule(make(settings), keras.Variable(WEIGHT))
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            rate = v1.get_variable("rate", initializer=0.0, use_resource=True)
            weight = v1.get_variable("weight", initializer=WEIGHT, use_resource=True)
            ids, values = v1.placeholder(tf.int64, (None,)), v1.placeholder(tf.float32, (None, 4))
            whole = tf.constant(WEIGHT.shape, tf.int64)
            gradient = tf.IndexedSlices(values, ids, whole) if sparse else tf.scatter_nd(ids[:, None], values, whole)
            update = update_of(weight, rate, settings, False, rule)(gradient)
            session.run(v1.global_variables_initializer())
            for number, (rows, gradients) in zip(RATES, steps, strict=True):
                rate.load(number, session)
                session.run(update, {ids: rows, values: gradients})
            results.append(session.run(weight))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_each_row_once() -> None:
    ids, values = [tf.constant([5, 3]), tf.constant([5])], [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])]
    found = each_row_once(ids, values, (9, 1))
    assert found.indices.numpy().tolist() == [3, 5]
    assert dict(zip(found.indices.numpy().tolist(), found.values.numpy().tolist(), strict=True)) == {5: [5.0], 3: [2.0]}


@pytest.mark.parametrize(
    ("text", "accumulate", "expected"),
    [
        ("sgd", 1, True),
        ("adagrad", 1, True),
        ("adam", 1, False),
        ("momentum", 1, False),
        ("sgd:weight_decay=0.1", 1, False),
        ("sgd:clipnorm=1.0", 1, False),
        ("sgd", 2, False),
    ],
)
def test_when_single_updates_rows(text: str, accumulate: int, expected: bool) -> None:
    settings = optimizers.parse(text).settings
    workload = SimpleNamespace(
        optimizer_settings=settings, accumulate=accumulate, scales_loss=False, jit=False, own_step=False
    )
    assert kept_as_rows(workload) is expected
    assert not kept_as_rows(SimpleNamespace(**vars(workload) | {"scales_loss": True}))
    assert not kept_as_rows(SimpleNamespace(**vars(workload) | {"jit": True}))


DENSE = {"sgd": 0.5, "adagrad": 0.05, "adam": RATE["adam"]}
"""Optimizer → learning rate."""


@pytest.fixture(scope="module")
def dense(data: str, tmp_path_factory: pytest.TempPathFactory):
    """A case's weights with dense gradients, by Keras's own optimizer."""
    known: dict[tuple[str, str], list[np.ndarray]] = {}

    def get(case: str, optimizer: str) -> list[np.ndarray]:
        if (case, optimizer) not in known:
            folder = tmp_path_factory.mktemp("dense") / "run"
            settings = work(case, data) | {"learning_rate": DENSE[optimizer]}
            known[case, optimizer] = weights("mirrored", 1, optimizer=optimizer, folder=folder, **settings)
            assert "dense ones are used" in ready(folder)["unused"]
        return known[case, optimizer]

    return get


def ready(folder: Path) -> dict[str, Any]:
    found = journal.read(folder / "worker-0.jsonl").ready
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("case", "strategy", "optimizer"),
    [
        exhaustive("two_lookups", "single", "sgd"),
        ("two_lookups", "single", "adagrad"),
        exhaustive("two_lookups", "ps:sync=true", "adagrad"),
        exhaustive("two_lookups", "ps:sync=true,ps=2", "sgd"),
        ("masked", "ps:sync=true", "adam"),
        exhaustive("small", "ps:sync=true", "sgd"),
        exhaustive("small", "single", "adagrad"),
        exhaustive("regularised", "single", "sgd"),
        ("tied", "single", "adagrad"),
        exhaustive("looping", "single", "sgd"),
        exhaustive("masked", "horovod", "sgd"),
        ("masked", "horovod:bucket_mib=0", "adam"),
    ],
)
def test_rows_give_the_weights_of_dense_gradients(
    case: str, strategy: str, optimizer: str, data: str, dense, tmp_path: Path
) -> None:
    replicas = 1 if strategy == "single" else 2
    settings = work(case, data) | {"learning_rate": DENSE[optimizer]}
    found = weights(strategy, replicas, optimizer=optimizer, folder=tmp_path / "run", **settings)
    assert_same(found, dense(case, optimizer), TOLERANCE["adam"])
    told = ready(tmp_path / "run")
    assert told["unused"].replace(f" ({DENSE_WORDS})", "") == {
        ("small", "ps:sync=true"): "sparse gradients of embedding",
        ("regularised", "single"): "sparse gradients of embedding",
        ("tied", "single"): "sparse gradients of reversible_embedding",
        ("looping", "single"): "sparse gradients of embedding",
    }.get((case, strategy), "")


def test_clipping_sees_the_whole_gradient(data: str, dense, tmp_path: Path) -> None:
    settings = work("two_lookups", data) | {"optimizer": "sgd:global_clipnorm=0.01", "learning_rate": 0.5}
    expected = weights("mirrored", 1, folder=tmp_path / "dense", **settings)
    found = weights("ps:sync=true", 2, folder=tmp_path / "rows", **settings)
    assert_same(found, expected, TOLERANCE["adam"])
    with pytest.raises(AssertionError):
        assert_same(found, dense("two_lookups", "sgd"), 0.01)


@pytest.mark.parametrize("strategy", ["ps", exhaustive("ps:mode=ssp,staleness=1")])
def test_asynchronous_workers_exchange_rows(strategy: str, data: str, tmp_path: Path) -> None:
    spec = make_spec(strategy, 2, **work("masked", data), optimizer="sgd", learning_rate=0.1, steps=STEPS)
    assert launch(spec, tmp_path / "run").status == "ok"
    told = ready(tmp_path / "run")
    assert told["unused"] == ""
    table = 4 * rows_models.IDS * rows_models.WIDTH
    rest = 4 * told["parameters"] - table
    rows = 24 * rows_models.LENGTH * (4 * rows_models.WIDTH + 8)
    assert told["traffic_bytes"] == 2 * 2 * (rest + rows)


def test_the_traffic_of_rows_gathered_by_horovod(data: str, tmp_path: Path) -> None:
    spec = make_spec("horovod", 2, **work("masked", data), optimizer="sgd", learning_rate=0.1, steps=5)
    assert launch(spec, tmp_path / "run").status == "ok"
    told = ready(tmp_path / "run")
    rest = 4 * told["parameters"] - 4 * rows_models.IDS * rows_models.WIDTH
    rows = 24 * rows_models.LENGTH * (4 * rows_models.WIDTH + 8)
    assert told["traffic_bytes"] == 4 * rest + 2 * 2 * rows


@pytest.mark.parametrize(
    "strategy",
    [
        "ps:lock=true",
        "horovod:compression=fp16",
        *map(exhaustive, ("ps:sync=true,backup=1", "ps:mode=downpour", "ps-tree", "allgather")),
    ],
)
def test_what_exchanges_whole_tables_says_so(strategy: str, data: str, tmp_path: Path) -> None:
    spec = make_spec(strategy, 2, **work("masked", data), optimizer="sgd", learning_rate=0.1, steps=5)
    assert launch(spec, tmp_path / "run").status == "ok"
    assert ready(tmp_path / "run")["unused"] == f"sparse gradients of table ({DENSE_WORDS})"
