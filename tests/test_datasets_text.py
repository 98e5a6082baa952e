"""Examples may be text, from files and from functions: it reaches the model's lookup layers as it is."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conformance import CUT, STEPS, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from dataset_helpers import whole
from stratbench.datasets.base import Array, described, parse
from stratbench.datasets.prepared import UnfitError, check, keep
from stratbench.datasets.structure import map_structure
from stratbench.errors import UsageError
from stratbench.harness.worker import examples, trial
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.strategies.registry import available

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.choice(["red", "grün", "blue", ""], 400)
SIZES = RANDOM.normal(size=400).astype("float32")
Y = ((COLOURS == "red") | (SIZES > 1)).astype("int32")
BYTES = np.char.encode(COLOURS, "utf-8")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a longer text in the test set."""
    path = tmp_path_factory.mktemp("text") / "text.h5"
    with h5py.File(path, "w") as h5:
        h5["x/colour"], h5["x/size"], h5["y"] = BYTES, SIZES, Y
        h5["varying"] = COLOURS.astype(object)
        h5["test/colour"], h5["test/size"], h5["test_y"] = np.array([b"ultramarine", b"red"]), SIZES[:2], Y[:2]
    return path


def test_hdf5(file: Path) -> None:
    dataset = parse(f"hdf5:{file}")
    assert dataset.info().x == {"colour": Array((), "S5"), "size": Array((), "float32")}
    assert described(dataset.info().x) == "colour of shape () and type text; size of shape () and type float32"
    rows = np.array([7, 399, 0])
    found, _ = dataset.read(rows)
    assert found["colour"].tolist() == BYTES[rows].tolist() and found["size"].tolist() == SIZES[rows].tolist()


def test_the_longest_text_of_all_sets_fits(file: Path) -> None:
    dataset = parse(f"hdf5:{file},test_x=test,test_y=test_y")
    assert dataset.info().x["colour"] == Array((), "S11")
    assert dataset.read(np.array([400, 0]))[0]["colour"].tolist() == [b"ultramarine", BYTES[0]]


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=COLOURS.reshape(-1, 2), y=Y[:200])
    dataset = parse(f"npz:{tmp_path / 'a.npz'}")
    assert dataset.info().x == Array((2,), "S5")
    assert dataset.read(np.array([1]))[0].tolist() == [BYTES[2:4].tolist()]


@pytest.mark.parametrize("as_type", [str, object, bytes])
def test_of_a_function(as_type: type, tmp_path: Path) -> None:
    colours: Any = BYTES if as_type is bytes else COLOURS.astype(as_type)
    sets = examples.sets(((colours[:300], Y[:300]), (colours[300:], Y[300:])))
    check(sets)
    dataset = parse("some.module:function", str(keep(tmp_path, sets)))
    assert dataset.info().x == Array((), "S5") and dataset.info().test_examples == 100
    assert dataset.read(np.array([3, 399]))[0].tolist() == BYTES[[3, 399]].tolist()


def test_of_a_stream() -> None:
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices((COLOURS, Y)).shuffle(400, seed=1).batch(7)
    x, y = whole(examples.sets(stream)["train"])
    assert sorted(zip(x.tolist(), y.tolist(), strict=True)) == sorted(zip(BYTES.tolist(), Y.tolist(), strict=True))


def test_text_of_varying_length_is_refused(file: Path) -> None:
    expected = "must be numbers, or text of a fixed length, as astype('S32') makes it. Received: text of varying length"
    with pytest.raises(UsageError) as caught:
        parse(f"hdf5:{file},x=varying").info()
    assert str(caught.value) == f"x of hdf5:{file},x=varying {expected}"


def test_compressed_text(tmp_path: Path) -> None:
    """By gzip; by another filter, whether HDF5 would read beyond a chunk can't be known."""
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("x", data=BYTES, chunks=(50,), compression="gzip", shuffle=True)
        h5.create_dataset("lzf", data=BYTES, chunks=(50,), compression="lzf")
        h5["y"] = Y
    assert parse(f"hdf5:{tmp_path / 'a.h5'}").read(np.array([0, 99]))[0].tolist() == BYTES[[0, 99]].tolist()
    with pytest.raises(UsageError, match=r"x of .* must be text that is not compressed, or by gzip. Received: another"):
        parse(f"hdf5:{tmp_path / 'a.h5'},x=lzf").info()


def test_a_damaged_length_is_found_before_hdf5_reads_beyond_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as h5:
        h5.create_dataset("x", data=BYTES, chunks=(50,), compression="gzip")
        h5["y"] = Y
    data = bytearray(path.read_bytes())
    # The type: class 3, version 1, then the length in 4 bytes.
    place = data.index(bytes([0x13, 0x01, 0, 0, 5, 0, 0, 0]))
    data[place + 5] = 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="chunks of /x of 250 bytes where its type needs 13050"):
        parse(f"hdf5:{path}").info()


def test_targets_are_no_text(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"y of hdf5:.* must be integers, floats or booleans.* Received: text, \|S5"):
        parse(f"hdf5:{file},x=y,y=x/colour").info()
    with pytest.raises(UnfitError) as caught:
        check(examples.sets((SIZES, COLOURS)))
    assert caught.value.rule.startswith("y of the train set must be integers, floats or booleans")


@pytest.mark.parametrize("value", [None, 1.5, ["a"]])
def test_mixtures_are_refused(value: Any) -> None:
    mixed = COLOURS.astype(object)
    mixed[3] = value
    with pytest.raises(UnfitError, match="arrays must be of numbers or text"):
        examples.sets((mixed, Y))


@pytest.fixture
def work(file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a spec."""
    folder = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.syspath_prepend(folder)
    shape = file.with_name("shaped.h5")
    with h5py.File(shape, "w") as h5:
        h5["x/colour"], h5["x/size"], h5["y"] = BYTES[:, None], SIZES[:, None], Y.astype("float32")[:, None]
    return {
        "model": "text_models:tabular",
        "dataset": f"hdf5:{shape}",
        "optimizer": "momentum",
        "learning_rate": 0.1,
    }


def by_keras(work: dict[str, Any]) -> list[np.ndarray]:
    import keras
    import tensorflow as tf
    import text_models

    workload = SpecWorkload(make_spec(**work, steps=STEPS))
    keras.utils.set_random_seed(workload.spec.seed)
    model = getattr(text_models, work["model"].partition(":")[2])()
    batches = workload.batches(1, 0)
    steps = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
    for x, y in itertools.islice(steps, STEPS):
        model.train_on_batch(map_structure(tf.constant, x), y)
    return model.get_weights()


def test_a_trial_takes_it(work: dict[str, Any]) -> None:
    assert trial.attempt(make_spec(**work))["optimizer"] == "momentum"
    assert make_spec(**work).input == "colour text, size float32"
    sys.modules.pop("text_models", None)


WHOLE = [name for name, cls in available().items() if cls.synchronous and not name.startswith(("ps", *CUT))]
WHOLE += ["sandblaster:update=optimizer", "model-parallel:split=tensor"]
USUAL = ("fit", "fsdp", "sandblaster:update=optimizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=[] if name in USUAL else [pytest.mark.exhaustive]) for name in WHOLE]
)
def test_every_strategy_trains_as_keras(strategy: str, work: dict[str, Any], tmp_path: Path) -> None:
    cls = available()[strategy.partition(":")[0]]
    replicas = 1 if cls.max_replicas == 1 else 2
    if (problem := cls().skip(replicas)) is not None:
        pytest.skip(problem)
    assert_same(weights(strategy, replicas, folder=tmp_path, **work), by_keras(work), 1e-5)


@pytest.mark.slow
def test_parameter_servers_take_no_tables(work: dict[str, Any], tmp_path: Path) -> None:
    outcome = launch(make_spec("ps", 1, **work, steps=2), tmp_path / "table")
    assert "uses a tensor or a lookup table that was made before" in outcome.reason


@pytest.mark.slow
@pytest.mark.exhaustive
def test_parameter_servers_take_text(work: dict[str, Any], tmp_path: Path) -> None:
    hashed = work | {"model": "text_models:hashed"}
    found = weights("ps:sync=true", 2, folder=tmp_path / "run", **hashed)
    assert_same(found, by_keras(hashed), 1e-5)
