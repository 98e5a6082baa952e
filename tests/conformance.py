"""The same questions to every strategy: does it give `single`'s weights, does it end, does it read its share?

A strategy is found by being in the package, so a new file in ``strategies/`` is tested without a word here. Options
that make a strategy equal to `single` where its defaults do not are listed in VARIANTS, with the optimizers for which
they do. Every strategy meets every size, model and optimizer, but not all their combinations, which would take half an
hour: the rest are marked ``exhaustive`` and run by ``make test ARGS="tests/conformance.py -m exhaustive"``.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import kept, launch, make_spec
from stratbench.harness.plan.spec import RunSpec
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import equal_work, journal, measure
from stratbench.strategies.registry import available
from stratbench.strategies.trainer import examples_of

STEPS = 20
DECAYED = "adamw:weight_decay=0.1"
TOLERANCE = {"sgd": 1e-5, "momentum": 1e-5, "adam": 1e-4, "adagrad": 1e-5, DECAYED: 1e-4}
RATE = {"sgd": 0.1, "momentum": 0.05, "adam": 0.001, "adagrad": 0.01, DECAYED: 0.001}
UNSPLIT = "fit:distribute=mirrored"
"""Its replicas exchange within Keras's call of a step."""
REPLICAS = (2, 3)
CUT = ("model-parallel", "pipeline")
"""Their parts are no replicas, and they take no models of any kind: `test_cut` and `test_cut_runs` ask further."""
ALGORITHMS = [f"allreduce:algorithm={name}" for name in ("tree", "butterfly", "rabenseifner", "central")]
ALGORITHMS.append("allreduce:algorithm=shared-memory")
"""They differ from one another between the gradient and the update only."""
OFTEN = ("mirrored", "multiworker", "horovod", "ps", "fsdp", "parameter-server")
"""What a step is made of differs most between these."""
VARIANTS = {
    "ps": {"ps:sync=true": ("momentum", "adam")},
    "parameter-server": {"parameter-server:mode=sync,ps=2": ("momentum", "adam")},
    "model-parallel": dict.fromkeys(["model-parallel", "model-parallel:split=tensor"], ("momentum", "adam")),
    "sandblaster": {"sandblaster:update=optimizer,portions=1": ("momentum", "adam")},
    "allreduce": dict.fromkeys(["allreduce", *ALGORITHMS], ("momentum", "adam")),
    "allgather": {"allgather": ("momentum", "adam"), "allgather:share=weights": ("sgd", "momentum")},
    "local-sgd": {"local-sgd:period=1,average_momentum=true": ("sgd", "momentum")},
}
ONCE = [
    ("ps:mode=ssp,staleness=0", 2, "mlp", "momentum"),
    ("ps:sync=true,ps=2", 2, "mlp", DECAYED),
    ("sandblaster:update=optimizer,ps=2", 3, "cnn", "momentum"),
    ("one-device", 1, "cnn", "adam"),
    ("pipeline:schedule=1f1b,micro_batches=6", 3, "cnn", "momentum"),
]
RARE = [
    ("ps:sync=true,ps=2", 3, "mlp", "adagrad"),
    ("multiworker", 2, "mlp", DECAYED),
    ("fsdp", 2, "mlp", DECAYED),
    ("model-parallel:parts=2", 4, "mlp", "adam"),
]
"""What differs from other cases in little; `RARE` is exhaustive."""

SYNCHRONOUS = {
    reference: optimizers
    for name, cls in available().items()
    if cls.max_replicas != 1
    for reference, optimizers in VARIANTS.get(name, {name: ("momentum", "adam")} if cls.synchronous else {}).items()
}


def cases() -> list[Any]:
    """In every commit's tests: `mlp` at 3 replicas with the first optimizer; for some, `cnn` at 2 with the last one."""
    found: list[Any] = [
        pytest.param(*case, id="-".join(map(str, case)), marks=[pytest.mark.exhaustive] if case in RARE else [])
        for case in [*ONCE, *RARE]
    ]
    for reference, optimizers in SYNCHRONOUS.items():
        for replicas, model, optimizer in itertools.product(REPLICAS, ("mlp", "cnn"), optimizers):
            usual = [(REPLICAS[1], "mlp", optimizers[0])]
            if reference.partition(":")[0] in OFTEN:
                usual.append((REPLICAS[0], "cnn", optimizers[-1]))
            marks = [] if (replicas, model, optimizer) in usual else [pytest.mark.exhaustive]
            name = f"{reference}-{replicas}-{model}-{optimizer}"
            found.append(pytest.param(reference, replicas, model, optimizer, marks=marks, id=name))
    return found


ASYNCHRONOUS = [name for name, cls in available().items() if not cls.synchronous]
DATASET = "mnist-12k"


STATIC = [("mirrored", "cnn"), ("multiworker", "mlp"), ("ps:sync=true", "mlp"), ("horovod", "cnn")]
"""With the model that each is run with, on parts of the data that each replica draws in its own order."""


def weights(strategy: str, replicas: int, model: str, optimizer: str, folder: Path, **work: Any) -> list[np.ndarray]:
    """A real run's weights after STEPS steps."""
    spec = make_spec(
        strategy,
        replicas,
        model=model,
        optimizer=optimizer,
        **{"dataset": DATASET, "learning_rate": RATE.get(optimizer)} | work,
        steps=STEPS,
    )
    outcome = launch(spec, folder)
    assert outcome.status == "ok", outcome.reason
    assert_split(strategy, folder)
    assert_order(spec, folder)
    return kept(folder)[-1]


def assert_split(strategy: str, folder: Path) -> None:
    """Every step of every worker is split into parts that are no longer than the step."""
    for path in folder.glob("worker-*.jsonl"):
        steps = journal.read(path).steps
        parts = [steps[f"{part}_seconds"] for part in ("computing", "communicating", "waiting")]
        if strategy == UNSPLIT:
            assert np.isnan(parts[0]).all()
            continue
        if strategy != "fit":
            parts.append(steps["input_seconds"])
        assert min(part.min() for part in parts) > -1e-4
        assert (parts[0] > 0).all()
        # Moments are of another clock than the step's duration.
        assert (sum(parts) <= steps["step_seconds"] + 1e-3).all()


def assert_order(spec: RunSpec, folder: Path) -> None:
    """All workers together read the examples that one process reads in each step, and each of them once."""
    logs = [journal.read(path) for path in folder.glob("worker-*.jsonl")]
    found = equal_work.run(logs, measure.rank_zero(logs))
    parts = spec.options["parts"] if spec.strategy == "single" and spec.options else spec.replicas
    parts = parts if spec.sharding == "static" else 1
    batches = SpecWorkload(spec).batches(parts, 0, parts)
    digest = read = 0
    for epoch in range(-(-STEPS // batches.steps_per_epoch)):
        left = STEPS - epoch * batches.steps_per_epoch
        read += sum(map(examples_of, islice(batches.epoch(epoch), left)))
        digest += int(batches.order.told()["digest"], 16)
    assert found["data_order"] == f"{digest % 2**64:016x}"
    assert found["examples_planned"] == found["examples_read"] == read
    assert found["first_epoch_distinct"] == found["first_epoch_examples"]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    """Each weight tensor within ``tolerance`` of the expected one, relative to that tensor's norm."""
    assert len(found) == len(expected)
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        error = np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12)
        assert error <= tolerance, f"weight {index} differs by {error:.2e}, more than {tolerance:g}"


@pytest.fixture(scope="module", autouse=True)
def keep_weights() -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv(KEEP_VARIABLE, "1")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory):
    """`single`'s weights for a model and an optimizer, computed once."""
    known: dict[tuple[str, ...], list[np.ndarray]] = {}

    def get(model: str, optimizer: str, strategy: str = "single", sharding: str = "batch") -> list[np.ndarray]:
        case = (strategy, model, optimizer, sharding)
        if case not in known:
            folder = tmp_path_factory.mktemp("single") / "run"
            known[case] = weights(strategy, 1, model, optimizer, folder, sharding=sharding)
        return known[case]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "replicas", "model", "optimizer"), cases())
def test_synchronous_equals_single(
    strategy: str, replicas: int, model: str, optimizer: str, single, tmp_path: Path, no_strays: None
) -> None:
    name = strategy.partition(":")[0]
    if (problem := available()[name]().skip(replicas)) is not None:
        pytest.skip(problem)
    expected = single(model, optimizer)
    assert_same(weights(strategy, replicas, model, optimizer, tmp_path / "run"), expected, TOLERANCE[optimizer])


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Work on bytes that are token ids, many of them several times in an example, and `single`'s weights after it."""
    folder = tmp_path_factory.mktemp("tokens")
    path = folder / "tokens.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["y"] = random.integers(4, size=1200)
        file["x"] = (random.integers(30, size=(1200, 12)) + 50 * file["y"][()][:, None]).astype("uint8")
    work = {"model": "token_model:model", "optimizer": "adam", "dataset": f"hdf5:{path}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        return {"work": work, "expected": weights("single", 1, folder=folder / "run", **work)}


def embedded() -> list[Any]:
    usual = ("mirrored", "horovod", "ps:sync=true", "model-parallel:split=tensor")
    marks = {name: [] if name in usual else [pytest.mark.exhaustive] for name in SYNCHRONOUS}
    return [pytest.param(name, marks=marks[name]) for name in SYNCHRONOUS if "adam" in SYNCHRONOUS[name]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", embedded())
def test_an_embedding_of_token_ids_equals_single(
    strategy: str, tokens: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    if (problem := available()[strategy.partition(":")[0]]().skip(2)) is not None:
        pytest.skip(problem)
    monkeypatch.chdir(Path(__file__).parent)
    found = weights(strategy, 2, folder=tmp_path / "run", **tokens["work"])
    assert_same(found, tokens["expected"], TOLERANCE["adam"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ps", "ps:mode=downpour,fetch=2,push=2"])
def test_an_embedding_on_servers_that_do_not_wait(
    strategy: str, tokens: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    """Where the values of a lookup are read on a server, its gradient must still be computed by the worker."""
    monkeypatch.chdir(Path(__file__).parent)
    found = weights(strategy, 2, folder=tmp_path / "run", **tokens["work"])
    assert all(np.isfinite(each).all() for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ps:sync=true", pytest.param("fsdp", marks=pytest.mark.exhaustive)])
def test_a_schedule_is_the_same_for_all(strategy: str, single, tmp_path: Path, no_strays: None) -> None:
    """The rates of 20 updates, in each worker and on the ps task."""
    if (problem := available()[strategy.partition(":")[0]]().skip(2)) is not None:
        pytest.skip(problem)
    work = {"lr_schedule": "cosine", "warmup_epochs": 0.01}
    found = weights(strategy, 2, "mlp", "momentum", tmp_path / "run", **work)
    expected = weights("single", 1, "mlp", "momentum", tmp_path / "single", **work)
    assert_same(found, expected, TOLERANCE["momentum"])
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(found, single("mlp", "momentum"), TOLERANCE["momentum"])


SHARES_ITS_STEP = {
    *ALGORITHMS,
    "allgather",
    "master-worker",
    "multiworker",
    "local-sgd:period=1,average_momentum=true",
    "ps-tree",
    "allreduce",
}
"""Their models are called where those of others are, too."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] if name in SHARES_ITS_STEP else [])
        for name in SYNCHRONOUS
        if name not in CUT
    ],
)
def test_layers_know_that_they_are_trained(
    strategy: str, single, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    """With one replica, the masks of a dropout layer are those of `single`."""
    if (problem := available()[strategy.partition(":")[0]]().skip(1)) is not None:
        pytest.skip(problem)
    monkeypatch.chdir(Path(__file__).parent)
    found = weights(strategy, 1, "dropout_model:model", "momentum", tmp_path / "run")
    assert_same(found, single("dropout_model:model", "momentum"), TOLERANCE["momentum"])


@pytest.fixture(scope="module")
def normalised() -> list[np.ndarray]:
    """Weights by two replicas in this process: each normalises its own part, and the first one's statistics count."""
    from stratbench.harness.worker.workload import SpecWorkload
    from stratbench.strategies._shared.replica import loss_and_gradients

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent)
        spec = make_spec(
            model="norm_model:model", dataset=DATASET, optimizer="momentum", learning_rate=0.05, steps=STEPS
        )
        workload = SpecWorkload(spec)
        models, optimizer = [workload.model() for _ in range(2)], workload.optimizer()
    first = models[0]
    parts = [workload.batches(2, shard).epoch(0) for shard in range(2)]
    for _, *batches in zip(range(STEPS), *parts, strict=False):
        gradients = [
            loss_and_gradients(workload, model, batch)[1] for model, batch in zip(models, batches, strict=True)
        ]
        means = [(mine + other) / 2 for mine, other in zip(*gradients, strict=True)]
        optimizer.apply(means, first.trainable_variables)
        for mine, other in zip(first.trainable_variables, models[1].trainable_variables, strict=True):
            other.assign(mine.value)
    return first.get_weights()


def local() -> list[Any]:
    usual = ("mirrored", "multiworker", "horovod", "ps:sync=true", "fsdp")
    marks = {name: [] if name in usual else [pytest.mark.exhaustive] for name in SYNCHRONOUS}
    # local-sgd averages the statistics too.
    return [pytest.param(name, marks=marks[name]) for name in SYNCHRONOUS if not name.startswith(("local-sgd", *CUT))]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", local())
def test_batch_statistics_are_those_of_the_first_replica(
    strategy: str, normalised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    if (problem := available()[strategy.partition(":")[0]]().skip(2)) is not None:
        pytest.skip(problem)
    monkeypatch.chdir(Path(__file__).parent)
    found = weights(strategy, 2, "norm_model:model", "momentum", tmp_path / "run")
    assert_same(found, normalised, TOLERANCE["momentum"])


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "model"), STATIC)
def test_static_sharding_is_the_same_for_all(
    strategy: str, model: str, single, tmp_path: Path, no_strays: None
) -> None:
    """One process of two replicas, two processes, and `single` told of two parts draw the same batches."""
    name = strategy.partition(":")[0]
    if (problem := available()[name]().skip(2)) is not None:
        pytest.skip(problem)
    found = weights(strategy, 2, model, "momentum", tmp_path / "run", sharding="static")
    assert_same(found, single(model, "momentum", "single:parts=2", "static"), TOLERANCE["momentum"])
    # Parts of their own orders are other batches.
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(found, single(model, "momentum"), TOLERANCE["momentum"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ASYNCHRONOUS)
def test_asynchronous_uses_every_example(strategy: str, tmp_path: Path, no_strays: None) -> None:
    replicas = 2
    spec = make_spec(strategy, replicas, dataset=DATASET, steps=STEPS)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    workers = [label for label in spec.labels() if label.startswith("worker-")]
    logs = [journal.read(tmp_path / f"{label}.jsonl") for label in workers]
    assert [len(log.steps) for log in logs] == [STEPS] * len(workers)
    assert sum(int(log.steps["examples"].sum()) for log in logs) == STEPS * 48


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [pytest.param("none", marks=pytest.mark.exhaustive), "sum", "shard"])
def test_a_wrong_strategy_is_caught(mistake: str, single, tmp_path: Path) -> None:
    """The suite must fail for a sum in place of a mean, and for a shard that two replicas share."""
    result = tmp_path / "weights.npz"
    script = Path(__file__).with_name("wrong_strategy.py")
    rate = RATE["momentum"]
    spec = make_spec("mirrored", 2, dataset=DATASET, steps=STEPS, optimizer="momentum", learning_rate=rate)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    subprocess.run([sys.executable, script, mistake, tmp_path / "spec.json", result], check=True, timeout=120)
    with np.load(result) as saved:
        found = [saved[name] for name in saved.files]
    expected = single("mlp", "momentum")
    if mistake == "none":
        assert_same(found, expected, TOLERANCE["momentum"])
    else:
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(found, expected, TOLERANCE["momentum"])
