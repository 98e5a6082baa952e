"""Files that aren't what they seem, and members that can't be read: one line each, and nothing waits for ever."""

import os
import socket
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from dataset_helpers import message, write
from stratbench.datasets.hdf5 import Hdf5
from stratbench.errors import DataError

pytestmark = pytest.mark.timeout(60)
X, Y = np.zeros((40, 3), np.float32), np.arange(40) % 4


def both(dataset: Hdf5) -> str:
    """The message of info(); that of read() must begin alike."""
    text = message(dataset.info)
    assert message(lambda: dataset.read(np.arange(4)), DataError)[:60] == text[:60]
    return text


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "link").symlink_to(write(tmp_path / "real.h5"))
    for name in ("fifo", "socket", "/dev/zero", "/dev/null", ".", "/"):
        path = str(tmp_path / name)
        assert both(Hdf5(path)) == f"data set file must be a regular file. Received: {path!r}"
    for name in ("missing", "nowhere", "real.h5/x"):
        path = str(tmp_path / name)
        assert both(Hdf5(path)) == f"data set file must be an existing file. Received: {path!r}"
    for path in (str(tmp_path / "loop"), "a" * 300, "nul\0.h5", "~no-such-user/a.h5"):
        assert both(Hdf5(path)).startswith(f"data set file must be readable HDF5. Received: {path!r} (")
    assert Hdf5(str(tmp_path / "link")).info().examples == 300
    listening.close()


def test_any_name_that_is_text(tmp_path: Path) -> None:
    for name in ("ünï ☃.h5", "a" * 200, "-", "$(x)"):
        assert Hdf5(str(write(tmp_path / name))).info().examples == 300


COMPOUND = np.zeros(40, [("a", "f4"), ("b", "i4")])
TYPES: dict[str, Any] = {
    "a compound of 2 fields; a group with a dataset for each will do": COMPOUND,
    "text, object": np.array([["a"]] * 40, object),
    "text, |S3": np.array([["abc"]] * 40, "S3"),
    "complex numbers, complex64": X.astype(np.complex64),
    "float128": X.astype(np.longdouble),
    "opaque bytes": np.zeros((40, 2), "V5"),
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in TYPES for option in "xy" if option == "y" or "text" not in name]
)
def test_types_are_named(tmp_path: Path, name: str, option: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, values in ({"x": X, "y": Y} | {option: TYPES[name]}).items():
            file.create_dataset(key, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)
    text = both(Hdf5(str(tmp_path / "a.h5")))
    assert text.startswith(f"{option} of hdf5:")
    assert text.endswith(f"must be integers, floats or booleans of at most 64 bits. Received: {name}")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (h5py.enum_dtype({"cat": 0, "dog": 1}, "u1"), "an enumeration"),
        (h5py.vlen_dtype("i4"), "rows of varying length"),
        (h5py.ref_dtype, "references"),
        (h5py.regionref_dtype, "references"),
        (np.dtype(("f4", (3,))), "arrays within values"),
        (h5py.opaque_dtype("M8[s]"), "opaque bytes"),
    ],
)
def test_types_without_values_of_their_own(tmp_path: Path, dtype: Any, name: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (40, 3), dtype)
        file["y"] = Y
    dataset = Hdf5(str(tmp_path / "a.h5"))
    assert both(dataset).endswith(f"of at most 64 bits. Received: {name}")


def make(path: Path, change: Any) -> Hdf5:
    with h5py.File(path, "w") as file:
        file["real/x"], file["y"] = X, Y
        change(file)
    return Hdf5(str(path))


def external(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/dev/stdin", "/x")


def link_to_external(file: h5py.File) -> None:
    file["out"] = h5py.ExternalLink("other.h5", "/")
    file["x"] = h5py.SoftLink("/out/x")


def circle(file: h5py.File) -> None:
    file["x"], file["z"] = h5py.SoftLink("z"), h5py.SoftLink("x")


def dangling(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/nowhere/at/all")


def through_a_dataset(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/y/deeper")


def named_type(file: h5py.File) -> None:
    file["x"] = np.dtype("f4")


def empty_group(file: h5py.File) -> None:
    file.create_group("x")


def group_within_itself(file: h5py.File) -> None:
    group = file.create_group("x")
    group["x"] = group


def link_out_of_a_group(file: h5py.File) -> None:
    file["x/out"] = h5py.ExternalLink("other.h5", "x")


def lengths_in_a_group(file: h5py.File) -> None:
    file["x/left"], file["x/right"] = np.zeros((5, 2)), np.zeros((4, 2))


def external_storage(file: h5py.File) -> None:
    file.create_dataset("x", (40, 3), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((40, 3), "f4")
    layout[:] = h5py.VirtualSource("missing.h5", "x", (40, 3))
    file.create_virtual_dataset("x", layout)


def scalar(file: h5py.File) -> None:
    file["x"] = 3.5


def no_rows(file: h5py.File) -> None:
    file.create_dataset("x", (0, 3), "f4", maxshape=(None, 3))


def too_many_rows(file: h5py.File) -> None:
    file.create_dataset("x", (2**40, 3), "f4", chunks=(1000, 3))


def large_rows(file: h5py.File) -> None:
    file.create_dataset("x", (40, 2**33), "u1", chunks=(1, 2**20))


def large_chunks(file: h5py.File) -> None:
    file.create_dataset("x", (2**26, 8), "f4", chunks=(2**24, 1))


def names_that_are_no_text(file: h5py.File) -> None:
    for name in (b"\xff\xfe", b"line\nend"):
        file.id.links.create_hard(name, file.id, b"y")


def many_names(file: h5py.File) -> None:
    for index in range(50):
        file[f"d{index:02}"] = [0]


NOWHERE = "x must be one of the datasets in {it}: real/x, y. Received: 'x', a link that leads nowhere"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (external, "x must be in the file itself. Received: 'x', a link to '/dev/stdin'"),
        (link_to_external, "x must be in the file itself. Received: 'x', a link to 'other.h5'"),
        (circle, NOWHERE),
        (dangling, NOWHERE),
        (through_a_dataset, NOWHERE),
        (named_type, "x must be one of the datasets in {it}: real/x, y. Received: 'x', a named type"),
        (empty_group, "x must be a group of 1..1000 datasets. Received: 'x', 0 members"),
        (group_within_itself, "x must be a group of 1..1000 datasets. Received: 'x/x/x/x/x', a group in 4 others"),
        (link_out_of_a_group, "x must be in the file itself. Received: 'x/out', a link to 'other.h5'"),
        (lengths_in_a_group, "must be of as many rows as x/left, 5. Received: 4"),
        (external_storage, "Received: a dataset in external storage; copy it into one of this file"),
        (virtual, "Received: a virtual dataset; copy it into one of this file"),
        (scalar, "must be of shape (examples, ...). Received: a single value"),
        (no_rows, "must be of a shape without zeros. Received: (0, 3)"),
        (too_many_rows, "must be of at most 100000000 rows. Received: 1099511627776"),
        (large_rows, "of at most 256 MiB, as h5repack makes them. Received: 8192 MiB to be read together"),
        (large_chunks, "of at most 256 MiB, as h5repack makes them. Received: 512 MiB to be read together"),
        (names_that_are_no_text, "x must be one of the datasets in {it}: line\\n"),
        (many_names, "d18, d19, and more. Received: 'x'"),
    ],
)  # fmt: skip
def test_odd_members(tmp_path: Path, change: Any, expected: str) -> None:
    dataset = make(tmp_path / "a.h5", change)
    assert expected.format(it=dataset.path) in both(dataset)


def test_soft_links_within_the_file_are_followed(tmp_path: Path) -> None:
    def links(file: h5py.File) -> None:
        file["group/up"] = h5py.SoftLink("/real")
        file["group/here"] = h5py.SoftLink("up/x")
        file["x"] = h5py.SoftLink("./group//here")

    assert make(tmp_path / "a.h5", links).info().shape == (3,)


def test_labels_too_many_to_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2**26, 2), "u1", chunks=(2**16, 2))
        file.create_dataset("y", (2**26, 2**10), "u1", chunks=(2**10, 2**10))
    text = message(Hdf5(str(tmp_path / "a.h5"), classes=2**10).info)
    assert "must be of at most 4294967296 values; class indices" in text


def test_members_that_cannot_be_opened(tmp_path: Path) -> None:
    """A damaged header of one dataset, and a filter that nobody has."""
    path = write(tmp_path / "a.h5", x=X, y=Y)
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file["x"].id).addr
    with path.open("r+b") as raw:
        raw.seek(header)
        raw.write(b"\xff" * 16)
    assert both(Hdf5(str(path))).startswith(f"data set file must be readable HDF5. Received: '{path}' (")
    assert "must be one of the datasets in" in message(Hdf5(str(path), x="missing").info)

    path = write(tmp_path / "b.h5", x=X, y=Y, chunks=(10, 3), compression="gzip")
    data = path.read_bytes()
    assert data.count(b"deflate") == 1
    # The filter's number comes 8 bytes before its name, of which 32000 and up are for plug-ins.
    at = data.index(b"deflate") - 8
    path.write_bytes(data[:at] + (32_500).to_bytes(2, "little") + data[at + 2 :])
    assert both(Hdf5(str(path))).startswith(f"data set file must be readable HDF5. Received: '{path}' (")


def test_a_file_that_shrinks_after_info(tmp_path: Path) -> None:
    dataset = Hdf5(str(write(tmp_path / "a.h5", x=X, y=Y)))
    dataset.info()
    write(tmp_path / "a.h5", x=X[:20], y=Y[:20])
    text = message(lambda: dataset.read(np.array([3, 20])), DataError)
    assert text == f"data set file must not change during the run. Received: {dataset.path!r}, now with 20 rows"
