"""Whatever a reference or a file holds: arrays come of it, or a StratbenchError of one line.

A few hundred cases by default; thousands with ``-m exhaustive``.
"""

import io
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stratbench.datasets.base import Dataset, available, parse
from stratbench.datasets.batches import Batches
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.split import parse_split, split_rows
from stratbench.datasets.structure import leaves
from stratbench.errors import StratbenchError

pytestmark = pytest.mark.timeout(900)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


def few(cases: int) -> Any:
    return settings(derandomize=True, database=None, deadline=None, max_examples=cases, suppress_health_check=QUIET)


def one_line(call: Callable[[], Any]) -> Any:
    """What ``call`` returns; None after a StratbenchError, which must be one line that can be printed."""
    try:
        return call()
    except StratbenchError as error:
        text = str(error)
        assert len(text.splitlines()) == 1
        assert "Received: " in text
        assert text.encode()
        return None


NASTY = st.sampled_from(
    ["", "\0", "\n", "\r", "\x85", "\u2028", "\udc80", "٣", "²", "½", "-0", "1e999999999", "0x10", "nan", "inf", "1_0",
     "9" * 5000, "9" * 4000, "-" + "9" * 30, "1/0", "1/3", "0/1", "true", "None", "=", ",", ":", "x", "/", "..", "~"]
)  # fmt: skip
SIZE = st.integers(-2, 2**70) | st.sampled_from([0, 1, 2, 28])
SIZES = st.lists(SIZE, max_size=40).map(lambda sizes: "x".join(map(str, sizes)))
NUMBERS = st.integers().map(str) | st.floats().map(str) | st.fractions().map(str)
VALUES = NASTY | SIZES | NUMBERS | st.text(max_size=20)
NAMES = st.sampled_from([*available(), "mnits", "hdf", ""]) | st.text(max_size=8)
KEYS = (
    st.sampled_from(["shape", "classes", "examples", "seed", "scale", "path", "x", "y", "test_x", "test_y"])
    | NASTY
    | st.text(max_size=5)
)
OPTIONS = st.lists(st.tuples(KEYS, st.sampled_from(["=", "=", "=", "", "=="]), VALUES).map("".join), max_size=5)
REFERENCES = st.tuples(NAMES, st.sampled_from([":", ",", ""]), OPTIONS.map(",".join)).map("".join) | st.text(
    max_size=60
)


SLASH = st.sampled_from(["/", "/", "/", ""])
SHARES = st.sampled_from(["10", "50", "33.3", "0.5", "0.25", "1e1", "1e-9", "80"])


def check_reference(reference: str) -> None:
    dataset = one_line(lambda: parse(reference))
    if dataset is None:
        return
    assert parse(dataset.reference) == dataset
    assert dataset.reference.encode()
    if dataset.name == "hdf5":
        one_line(dataset.info)
        one_line(lambda: dataset.read(np.arange(2)))
    elif dataset.name == "synthetic":
        info = dataset.info()
        # What each option allows by itself may still be hundreds of MiB.
        if math.prod(info.shape) * max(info.classes, info.block_rows) < 10**6:
            x, y = dataset.read(np.array([info.examples - 1, 0]))
            assert (x.shape, str(x.dtype), y.shape) == ((2, *info.shape), info.x.dtype, (2,))


@given(REFERENCES)
@example("synthetic:shape=" + "x".join(["9" * 60] * 60))
@example("hdf5:" + "a" * 300)
@example("hdf5:\0")
@few(250)
def test_references(reference: str) -> None:
    check_reference(reference)


@pytest.mark.exhaustive
@given(REFERENCES)
@few(5_000)
def test_many_references(reference: str) -> None:
    check_reference(reference)


@given(st.tuples(VALUES | SHARES, SLASH, VALUES | SHARES, SLASH, VALUES | SHARES).map("".join))
@example("1e999999999/1/1")
@few(200)
def test_splits(text: str) -> None:
    normal = one_line(lambda: parse_split(text))
    if normal is not None:
        assert parse_split(normal) == normal


def test_split_of_long_text() -> None:
    with pytest.raises(StratbenchError) as caught:
        parse_split("9" * 100_000)
    assert len(str(caught.value)) < 300


CHUNKS: list[dict[str, Any]] = [
    {},
    {"chunks": (5, 3)},
    {"chunks": (5, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
    {"maxshape": (None, 3), "chunks": (2, 3)},
    {"chunks": (16, 2), "compression": "lzf"},
]


@cache
def sound(version: str, layout: int, one_hot: bool) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", libver=version) as out:
        out.create_dataset("x", data=(np.arange(120, dtype="f4") % 7).reshape(40, 3), **CHUNKS[layout])
        out["y"] = np.eye(4)[np.arange(40) % 4] if one_hot else np.arange(40) % 4
        out["group/x"] = h5py.SoftLink("/x")
    return file.getvalue()


def damaged(seed: int) -> bytes:
    """A file with a few bytes changed, or cut off, in one of ten layouts. Uniform, which Hypothesis is not."""
    choose = random.Random(seed)
    kinds = choose.choice(["earliest", "latest"]), choose.randrange(len(CHUNKS)), choose.random() < 0.5
    data = bytearray(sound(*kinds))
    if choose.random() < 0.2:
        del data[choose.randrange(len(data)) :]
    for _ in range(choose.choice([1, 1, 2, 4, 16]) if data else 0):
        data[choose.randrange(len(data))] = choose.choice([0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)])
    return bytes(data)


def check_file(path: Path, **names: str) -> bool:
    """Whether it could be read."""
    dataset = Hdf5(str(path), **names)
    info = one_line(dataset.info)
    if info is None:
        return False
    rows = np.arange(info.examples)[:500]
    arrays = one_line(lambda: dataset.read(rows))
    if arrays is None:
        return False
    for array, like in zip(leaves(arrays), leaves(info.structure), strict=True):
        assert (array.shape, array.dtype) == ((len(rows), *like.shape), np.dtype(like.dtype))
    assert (info.classes is None) == bool(info.not_classes)
    if info.classes is not None:
        assert 0 <= arrays[1].min() <= arrays[1].max() < info.classes
    if info.examples >= 30:
        train = one_line(lambda: split_rows(info, "default"))
        if train is not None:
            one_line(lambda: list(Batches(dataset, train["train"], global_batch=1, seed=0).epoch(0)))
    return True


def test_the_files_were_sound(tmp_path: Path) -> None:
    for version in ("earliest", "latest"):
        for layout in range(len(CHUNKS)):
            for one_hot in (False, True):
                (tmp_path / "a.h5").write_bytes(sound(version, layout, one_hot))
                assert check_file(tmp_path / "a.h5")
                assert check_file(tmp_path / "a.h5", x="group/x")


def check_damaged(seeds: range, path: Path) -> None:
    read = 0
    for seed in seeds:
        path.write_bytes(damaged(seed))
        read += check_file(path, x=random.Random(seed).choice(["x", "x", "group/x", "missing"]))
    # Both were met: files that tell of their damage, and files that don't.
    assert 0 < read < len(seeds)


def test_damaged_bytes(tmp_path: Path) -> None:
    check_damaged(range(400), tmp_path / "a.h5")


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_bytes(tmp_path: Path, part: int) -> None:
    check_damaged(range(1000 + part * 2000, 3000 + part * 2000), tmp_path / "a.h5")


KINDS = ["u1", "i1", ">i2", "u4", "i8", "u8", "f2", "f4", ">f8", "?", "c8", "g", "S3", "V4", "M"]


@st.composite
def members(draw: st.DrawFn) -> Callable[[h5py.File, str], None]:
    """What a file may hold by the name of x or y: of any type, shape, layout and value, or no dataset at all."""
    odd = draw(st.integers(0, 12))
    if odd == 0:
        link = draw(st.sampled_from([h5py.SoftLink("/y"), h5py.SoftLink("/x"), h5py.ExternalLink("a.h5", "x")]))
        return lambda file, name: file.__setitem__(name, link)
    if odd == 1:
        return lambda file, name: file.create_group(f"{name}/x/y") and None
    if odd == 2:
        empty = h5py.Empty(draw(st.sampled_from(["f4", "i8", "S2"])))
        return lambda file, name: file.__setitem__(name, empty)
    if odd == 3:
        inner = draw(st.lists(members(), max_size=3))
        return lambda file, name: [part(file, f"{name}/{number}") for number, part in enumerate(inner)] and None
    kind = draw(st.sampled_from(KINDS))
    if kind == "M":
        special = draw(st.sampled_from([h5py.enum_dtype({"a": 0}), h5py.vlen_dtype("f4"), h5py.ref_dtype]))
        return lambda file, name: file.create_dataset(name, (20, 2), special) and None
    rows = draw(st.sampled_from([20, 20, 20, 20, 0, 1, 19]))
    shape = (rows, *draw(st.sampled_from([(), (1,), (2,), (3,), (2, 2), (0,), (1, 1, 1, 1)])))
    numbers = draw(st.sampled_from(["classes", "one-hot", "bits"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.dtype(kind)
    if numbers == "bits" or dtype.kind in "SV":
        values = np.frombuffer(random.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
        values = values != 0 if kind == "?" else values
    elif numbers == "one-hot" and shape[1:] in ((2,), (3,)):
        values = np.eye(shape[1])[random.integers(shape[1], size=rows)].astype(dtype)
    else:
        values = random.integers(3, size=shape).astype(dtype)
    return lambda file, name: file.create_dataset(name, data=values) and None


def check_members(folder: Path, parts: list[Callable[[h5py.File, str], None]], options: dict[str, Any]) -> None:
    path = folder / "a.h5"
    names = ["x", "y", "test_x", "test_y"][: len(parts)]
    with h5py.File(path, "w") as file:
        for name, part in zip(names, parts, strict=True):
            part(file, name)
    check_file(path, **{name: name for name in names}, **options)


def holding(values: np.ndarray) -> Callable[[h5py.File, str], None]:
    return lambda file, name: file.create_dataset(name, data=values) and None


X = st.sampled_from([holding(np.ones((20, 3), kind)) for kind in ("u1", ">i4", "f2", "?")])
Y = st.sampled_from([holding(values) for values in (np.arange(20) % 3, np.eye(3)[np.arange(20) % 3])])
PAIR = st.tuples(X, Y) | st.tuples(X, members()) | st.tuples(members(), Y) | st.tuples(members(), members())
MEMBERS = PAIR | st.tuples(PAIR, PAIR).map(lambda pairs: pairs[0] + pairs[1])
GIVEN = st.fixed_dictionaries({}, optional={"classes": st.sampled_from([-1, 0, 1, 2, 3, 2**20, 2**70])})


@given(MEMBERS, GIVEN)
@few(250)
def test_odd_members(tmp_path: Path, parts: Any, options: dict[str, Any]) -> None:
    check_members(tmp_path, parts, options)


@pytest.mark.exhaustive
@given(MEMBERS, GIVEN)
@few(2_000)
def test_many_odd_members(tmp_path: Path, parts: Any, options: dict[str, Any]) -> None:
    check_members(tmp_path, parts, options)


def test_every_data_set_says_the_type_it_reads() -> None:
    for reference in ("mnist-12k", "synthetic:examples=200"):
        dataset: Dataset = parse(reference)
        assert str(dataset.read(np.arange(3))[0].dtype) == dataset.info().x.dtype
