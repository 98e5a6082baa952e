from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from stratbench.datasets import batches
from stratbench.datasets.base import Array, Dataset, Info
from stratbench.datasets.prepared import Set
from stratbench.datasets.structure import leaves, map_structure
from stratbench.errors import UsageError


@dataclass(frozen=True)
class Table(Dataset):
    """Row i is [i, i] with label i % 3; remembers which rows each read asked for."""

    name: ClassVar[str] = "table"
    summary: ClassVar[str] = "for tests"
    licence: ClassVar[str] = "none"

    examples: int = 100
    reads: list[np.ndarray] = field(default_factory=list, compare=False)

    def info(self) -> Info:
        return Info(None, None, self.examples, Array((2,), "int16"), classes=3)

    def read(self, rows):
        self.reads.append(rows)
        return np.stack([rows, rows], axis=1).astype(np.int16), (rows % 3).astype(np.int32)


def write(path: Path, *, x=None, y=None, **options) -> Path:
    """Write an HDF5 file whose row i holds i in every value."""
    x = np.arange(300, dtype=np.float32).repeat(4).reshape(300, 2, 2) if x is None else x
    y = np.arange(len(x)) % 5 if y is None else y
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, **options)
        file.create_dataset("y", data=y)
    return path


def message(call, error=UsageError) -> str:
    """Return the text of the error that ``call`` raises; it must be one line."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "Received: " in text
    return text


def rows_of(source) -> list[list[int]]:
    """Row numbers of each batch of a data set whose rows hold their numbers."""
    return [x.reshape(len(x), -1)[:, 0].astype(int).tolist() for x, _ in source]


def flat(steps) -> list[int]:
    return [row for step in steps for row in step]


def windows_of(monkeypatch, rows: int, example_bytes: int = 4) -> None:
    for name in ("KEPT_BYTES", "WINDOW_BYTES"):
        monkeypatch.setattr(batches, name, rows * example_bytes)


def whole(each: Set) -> Any:
    """The arrays of a set."""
    if isinstance(each, tuple):
        return each
    found = map_structure(lambda column: np.empty(column.shape, column.dtype), each.examples)
    for rows, part in each.parts():
        for array, values in zip(leaves(found), leaves(part), strict=True):
            array[rows] = values
    return found
