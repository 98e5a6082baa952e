"""The user's own examples, in an HDF5 file that may be larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, StratbenchError, UsageError
from . import _checks
from ._checks import MAX_CLASSES, UnfitError, class_indices, is_one_hot
from ._hdf5_file import check_chunks, find, opened, piece_rows, pieces
from .base import Dataset, Info


class _Part(NamedTuple):
    """One set of a file: its two h5py datasets, and the options that named them."""

    x: Any
    y: Any
    x_option: str
    y_option: str


@dataclass(frozen=True)
class Hdf5(Dataset):
    """Two datasets of one file: x with a row for each example, y with their labels. If they are named, also its own
    validation and test sets.

    Labels are class indices, shape ``(n,)`` or ``(n, 1)``, or one-hot, shape ``(n, classes)``. The file is opened for
    each read and closed after it, so processes never share a handle; it is never locked. Row numbers continue over
    the sets: x first, then validation_x, then test_x.
    """

    name = "hdf5"
    summary = "Your own HDF5 file, read in pieces: numeric examples and their labels"
    licence = "that of your file"

    path: str = field(metadata={"help": "the file, as in hdf5:PATH", "positional": True})
    x: str = field(default="x", metadata={"help": "name of the dataset with the examples, shape (n, ...)"})
    y: str = field(default="y", metadata={"help": "name of the dataset with the labels, integers or one-hot"})
    classes: int | None = field(
        default=None, metadata={"help": "number of classes; default: the largest label + 1, or width of one-hot labels"}
    )
    scale: Fraction = field(
        default=Fraction(1), metadata={"help": "factor on the stored examples, such as 1/255 for images of bytes"}
    )
    validation_x: str | None = field(
        default=None, metadata={"help": "name of the validation set's examples; else a share of x"}
    )
    validation_y: str | None = field(default=None, metadata={"help": "name of the validation set's labels"})
    test_x: str | None = field(default=None, metadata={"help": "name of the test set's examples; else a share of x"})
    test_y: str | None = field(default=None, metadata={"help": "name of the test set's labels"})

    def __post_init__(self) -> None:
        for x, y in (("validation_x", "validation_y"), ("test_x", "test_y")):
            if (getattr(self, x) is None) != (getattr(self, y) is None):
                given = x if getattr(self, y) is None else y
                raise UsageError(f"{x} and {y} of {self.name} must be given together. Received: {given} alone")

    def info(self) -> Info:
        """Check the file and describe it; all labels are read once, in pieces.

        Raises UsageError for a file that is missing or unreadable, for a dataset that is missing, empty or of the
        wrong type, for x and y of different lengths, and for labels that are not classes.
        """
        return self._info

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Dataset.read`; ``x`` has the stored type in the machine's byte order.

        In addition to the result, a few pieces of 1 MiB (or one chunk, if that is larger) are in memory.
        """
        with self._parts(DataError) as parts:
            first = parts[0].x
            examples = np.empty((len(rows), *first.shape[1:]), first.dtype.newbyteorder("="))
            labels = np.empty(len(rows), np.int64)
            start = 0
            for part in parts:
                end = start + len(part.x)
                mine = np.flatnonzero((rows >= start) & (rows < end))
                self._read_part(part, rows[mine] - start, mine, examples, labels)
                start = end
            if len(rows) and rows.max() >= start:
                raise DataError(
                    f"data set file must not change during the run. Received: {self.path!r}, now with {start} rows"
                )
        return examples, labels

    def _read_part(
        self, part: _Part, rows: np.ndarray, places: np.ndarray, examples: np.ndarray, labels: np.ndarray
    ) -> None:
        """Copy ``rows`` of that part to the positions ``places`` of the arrays."""
        for at, piece in pieces(part.x, rows):
            examples[places[at]] = piece
        for at, piece in pieces(part.y, rows):
            with self._named(part.y_option, DataError):
                labels[places[at]] = class_indices(piece, self._limit(part), int(rows[at[0]]))

    @cached_property
    def _info(self) -> Info:
        with self._parts(UsageError) as parts:
            for part in parts:
                check_chunks(part.x, Path(part.x.file.filename).stat().st_size)
                check_chunks(part.y, Path(part.y.file.filename).stat().st_size)
            classes = self._classes(parts)
            for part in parts:
                # If a filter isn't installed, such as Blosc, the error occurs only here.
                part.x[:1]
            x = parts[0].x
            rows = {part.x_option: len(part.x) for part in parts}
            block_rows = x.chunks[0] if x.chunks else piece_rows(x)
            return Info(
                train_examples=len(x) if len(parts) > 1 else None,
                test_examples=rows.get("test_x"),
                examples=sum(rows.values()),
                shape=x.shape[1:],
                classes=classes,
                block_rows=max(1, min(block_rows, len(x) // 100)),
                dtype=x.dtype.newbyteorder("=").name,
                scale=self.scale,
                validation_examples=rows.get("validation_x"),
            )

    @contextmanager
    def _parts(self, failure: type[StratbenchError]) -> Iterator[list[_Part]]:
        """Open the file and yield its sets, in the order of their rows. Their values are not checked yet."""
        with opened(self.path, failure) as file:
            parts: list[_Part] = []
            for x, y in (("x", "y"), ("validation_x", "validation_y"), ("test_x", "test_y")):
                if getattr(self, x) is not None:
                    part = _Part(self._member(file, x, failure), self._member(file, y, failure), x, y)
                    self._check_part(part, parts, failure)
                    parts.append(part)
            yield parts

    def _member(self, file: Any, option: str, failure: type[StratbenchError]) -> Any:
        try:
            stored = find(file, getattr(self, option))
        except UnfitError as error:
            raise failure(f"{option} must be {error.rule}. Received: {error.received}") from None
        with self._named(option, failure):
            _checks.check_storage(stored)
        return stored

    def _check_part(self, part: _Part, before: list[_Part], failure: type[StratbenchError]) -> None:
        x, y, x_option, y_option = part
        with self._named(x_option, failure):
            if x.ndim < 2:
                raise UnfitError("of shape (examples, ...) with two or more dimensions", x.shape)
            for other in before:
                kind, shape = other.x.dtype, other.x.shape[1:]
                if (x.dtype, x.shape[1:]) != (kind, shape):
                    raise UnfitError(f"of the type and shape of x, {kind} {shape}", f"{x.dtype} {x.shape[1:]}")
                if x == other.x:
                    raise UnfitError(f"other examples than {other.x_option}", f"{x.name} for both")
            if sum(len(other.x) for other in before) + len(x) > _checks.MAX_ROWS:
                raise UnfitError(f"of at most {_checks.MAX_ROWS} rows with the other sets", len(x))
        with self._named(y_option, failure):
            _checks.check_labels_shape(y, len(x), x_option)

    def _classes(self, parts: list[_Part]) -> int:
        """Read all labels and return the number of classes."""
        if self.classes is not None and not 2 <= self.classes <= MAX_CLASSES:
            raise UsageError(f"classes of {self.reference} must be 2..{MAX_CLASSES}. Received: {self.classes}")
        seen = np.zeros(MAX_CLASSES, bool)
        classes = self.classes
        for part in parts:
            if is_one_hot(part.y):
                if classes not in (None, part.y.shape[1]):
                    with self._named(part.y_option, UsageError):
                        raise UnfitError(f"one-hot for {classes} classes", f"width {part.y.shape[1]}")
                classes = part.y.shape[1]
        # One-hot labels first: their width limits the other labels only if they are valid.
        for part in sorted(parts, key=lambda part: not is_one_hot(part.y)):
            step = piece_rows(part.y)
            for start in range(0, len(part.y), step):
                with self._named(part.y_option, UsageError):
                    seen[class_indices(part.y[start : start + step], classes or MAX_CLASSES, start)] = True
        if classes is not None:
            return classes
        with self._named("classes", UsageError):
            classes = _checks.check_classes_found(seen, sum(len(part.y) for part in parts))
            if classes < 2:
                raise UnfitError(f"2..{MAX_CLASSES}", classes)
        return classes

    def _limit(self, part: _Part) -> int:
        return part.y.shape[1] if is_one_hot(part.y) else self.classes or MAX_CLASSES

    @contextmanager
    def _named(self, option: str, failure: type[StratbenchError]) -> Iterator[None]:
        """Turn UnfitError into ``failure`` that names the option."""
        try:
            yield
        except UnfitError as error:
            rule = f"{option} of {self.reference} must be {error.rule}"
            raise failure(f"{rule}. Received: {error.received}") from None
