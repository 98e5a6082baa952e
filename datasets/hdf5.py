"""The user's own examples, in an HDF5 file that may be larger than memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, StratbenchError, UsageError
from ._blocks import by_block
from .base import Dataset, Info

_PIECE_BYTES = 2**20
_MAX_CLASSES = 2**20


@dataclass(frozen=True)
class Hdf5(Dataset):
    """Two datasets of one file: x with a row for each example, y with their labels.

    Labels are class indices, shape ``(n,)`` or ``(n, 1)``, or one-hot, shape ``(n, classes)``. The file is
    opened for each read and closed after it, so no handle is ever shared between processes; it is never
    locked.
    """

    name = "hdf5"
    summary = "Your own HDF5 file, read by pieces: numeric examples and their labels"
    licence = "that of your file"

    path: str = field(metadata={"help": "the file, as in hdf5:PATH", "positional": True})
    x: str = field(default="x", metadata={"help": "name of the dataset with the examples, shape (n, ...)"})
    y: str = field(default="y", metadata={"help": "name of the dataset with the labels, integers or one-hot"})
    classes: int | None = field(
        default=None, metadata={"help": "number of classes; else the largest label + 1, or one-hot's width"}
    )
    scale: Fraction = field(
        default=Fraction(1), metadata={"help": "factor on the stored examples, as 1/255 for images of bytes"}
    )

    def info(self) -> Info:
        """Look at the file; without ``classes`` all labels are read once, by pieces.

        Raises UsageError for a file that is missing or unreadable, for a dataset that is missing, empty or of
        the wrong type, and for x and y of different lengths.
        """
        return self._info

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Dataset.read`; ``x`` has the stored type in the machine's byte order.

        Beyond what is returned, a few pieces of 1 MiB (or one chunk, if that is larger) are in memory.
        """
        with self._open(DataError) as (x, y):
            examples = np.empty((len(rows), *x.shape[1:]), x.dtype.newbyteorder("="))
            labels = np.empty(len(rows), np.int64)
            for places, piece in _pieces(x, rows):
                examples[places] = piece
            for places, piece in _pieces(y, rows):
                labels[places] = _indices(piece)
        return examples, labels

    @cached_property
    def _info(self) -> Info:
        with self._open(UsageError) as (x, y):
            self._check_x(x)
            self._check_y(y, len(x))
            # A filter that isn't installed, such as Blosc, shows only here.
            x[:1], y[:1]
            classes = self._count_classes(y)
            block_rows = x.chunks[0] if x.chunks else _piece_rows(x)
            block_rows = max(1, min(block_rows, len(x) // 100))
            dtype = x.dtype.newbyteorder("=").name
            return Info(None, None, len(x), x.shape[1:], classes, block_rows, dtype, self.scale)

    @contextmanager
    def _open(self, failure: type[StratbenchError]) -> Iterator[tuple[Any, Any]]:
        """Open the file and yield x and y, as h5py datasets; what goes wrong in HDF5 becomes ``failure``."""
        import h5py

        try:
            path = Path(self.path).expanduser()
            if not path.is_file():
                raise failure(f"data set file must be an existing file. Received: {self.path!r}")
            with h5py.File(path, "r", locking=False) as file:
                yield self._member(file, "x"), self._member(file, "y")
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise failure(f"data set file must be readable HDF5. Received: {self.path!r} ({reason})") from error

    def _member(self, file: Any, option: str) -> Any:
        import h5py

        name = getattr(self, option)
        member = file.get(name)
        if not isinstance(member, h5py.Dataset):
            names: list[str] = []
            file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
            rule = f"{option} must be one of the datasets in {self.path}: {', '.join(names) or 'it has none'}"
            raise UsageError(f"{rule}. Received: {name!r}")
        return member

    def _check_x(self, x: Any) -> None:
        if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
            raise UsageError(self._wrong("x", "integers or floats of at most 64 bits", x.dtype))
        # The shape of a null dataset is None.
        if len(x.shape or ()) < 2:
            raise UsageError(self._wrong("x", "of shape (examples, ...) with two or more dimensions", x.shape))
        if 0 in x.shape:
            raise UsageError(self._wrong("x", "of a shape without zeros", x.shape))

    def _check_y(self, y: Any, examples: int) -> None:
        shape = y.shape or ()
        if len(shape) not in (1, 2) or 0 in shape:
            raise UsageError(self._wrong("y", "of shape (examples,) or (examples, classes)", y.shape))
        if y.dtype.kind not in ("iufb" if _is_one_hot(y) else "iu"):
            raise UsageError(self._wrong("y", "integers or one-hot", y.dtype))
        if len(y) != examples:
            raise UsageError(self._wrong("y", f"of as many rows as x, {examples}", len(y)))

    def _count_classes(self, y: Any) -> int:
        if _is_one_hot(y):
            if self.classes not in (None, y.shape[1]):
                raise UsageError(self._wrong("y", f"one-hot for {self.classes} classes", f"width {y.shape[1]}"))
            return y.shape[1]
        classes = self._largest_label(y) + 1 if self.classes is None else self.classes
        if not 2 <= classes <= _MAX_CLASSES:
            raise UsageError(f"classes of {self.reference} must be 2..{_MAX_CLASSES}. Received: {classes}")
        return classes

    def _largest_label(self, y: Any) -> int:
        largest = 0
        step = _piece_rows(y)
        for start in range(0, len(y), step):
            piece = y[start : start + step]
            if piece.min() < 0:
                raise UsageError(self._wrong("y", "labels of 0 or more", piece.min()))
            largest = max(largest, int(piece.max()))
        return largest

    def _wrong(self, option: str, rule: str, received: object) -> str:
        return f"{option} of {self.reference} must be {rule}. Received: {received}"


def _piece_rows(stored: Any) -> int:
    """Return how many rows to read at a time: whole chunks, about ``_PIECE_BYTES`` together."""
    chunk_rows = stored.chunks[0] if stored.chunks else 1
    chunk_bytes = chunk_rows * math.prod(stored.shape[1:]) * stored.dtype.itemsize
    return chunk_rows * max(1, _PIECE_BYTES // chunk_bytes)


def _pieces(stored: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read ``rows`` piece by piece: yield places in ``rows`` and what is stored there."""
    for _, places in by_block(rows, _piece_rows(stored)):
        # Gaps are read, too: decoding a chunk once costs less than one read for each run of rows.
        first, last = rows[places[0]], rows[places[-1]]
        yield places, stored[first : last + 1][rows[places] - first]


def _is_one_hot(y: Any) -> bool:
    return y.ndim == 2 and y.shape[1] > 1


def _indices(labels: np.ndarray) -> np.ndarray:
    """Turn labels as they are stored into class indices, int64."""
    if _is_one_hot(labels):
        return labels.argmax(axis=1)
    return labels.reshape(-1).astype(np.int64)
