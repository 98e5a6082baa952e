"""The sets of a user's data: training, and validation and test if there are any. Described, checked and read.

An array is a NumPy array or an h5py dataset: it has a shape, a type, and rows that are read by slices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ...errors import StratbenchError, UsageError
from ..base import LABEL, TEXT, Array, Info
from ..structure import is_empty, leaves, map_structure, named
from . import checks
from .checks import MAX_CLASSES, UnfitError, class_indices, is_one_hot
from .pieces import piece_rows, pieces
from .text import type_name

SETS = (
    ("x", "y", "sample_weight"),
    ("validation_x", "validation_y", "validation_sample_weight"),
    ("test_x", "test_y", "test_sample_weight"),
)
"""Options of a data set that name the arrays of training, validation and test."""
EXAMPLES = tuple(x for x, _, _ in SETS)
TARGETS = tuple(y for _, y, _ in SETS)

NO_TARGETS = "none"
"""As ``y`` of a data set that has examples only. Its targets are a structure without arrays."""


class Part(NamedTuple):
    """One set: structures of arrays, and what they are called in messages. ``weight`` is None if there are none."""

    x: Any
    y: Any
    weight: Any
    names: tuple[str, str, str]

    @property
    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Each array with its name."""
        for name, structure in zip(self.names, (self.x, self.y, self.weight), strict=True):
            if structure is not None:
                yield from named(structure, name)

    def __len__(self) -> int:
        return len(leaves(self.x)[0])


class Parts:
    """Row numbers continue over the parts. ``reference`` names the data set in messages.

    Raises ``failure`` if arrays of a part have different numbers of rows, or if there are too many.
    """

    def __init__(self, reference: str, parts: list[Part], failure: type[StratbenchError]) -> None:
        self._reference, self._parts, self._failure = reference, parts, failure
        self.rows = sum(map(len, parts))
        for part in parts:
            first, _ = next(part.arrays)
            for name, array in part.arrays:
                with self._named(name):
                    checks.check_rows(array, len(part), first)
        if self.rows > checks.MAX_ROWS:
            with self._named(parts[-1].names[0]):
                raise UnfitError(f"of at most {checks.MAX_ROWS} rows with the other sets", self.rows)

    def describe(self, classes: int | None, scale: Fraction, block_rows: int) -> Info:
        """Read all targets that may be class labels, in pieces. ``classes``: None to find their number, if any.

        Raises ``failure`` if the parts have different arrays or, with ``classes``, if the targets are no class labels.
        """
        found, not_classes = self._classes_or_why_not(classes)
        first = self._parts[0]
        rows = {part.names[0]: len(part) for part in self._parts}
        for part in self._parts:
            self._check_alike(part, first, labels=found is not None)
        x, y, weight = (None if part is None else map_structure(_described, part) for part in first[:3])
        x = map_structure(_with_width, x, *(part.x for part in self._parts))
        if scale != 1 and not isinstance(x, Array):
            raise self._failure(
                f"scale of {self._reference} must be left out for several arrays of examples. Received: {scale}"
            )
        return Info(
            train_examples=len(first) if len(self._parts) > 1 else None,
            test_examples=rows.get("test_x"),
            examples=self.rows,
            x=x,
            y=y if found is None else LABEL,
            classes=found,
            not_classes=not_classes,
            labels=y if isinstance(y, Array) and found is not None else LABEL,
            one_hot=found is not None and is_one_hot(first.y),
            sample_weight=weight,
            block_rows=max(1, min(block_rows, len(first) // 100)),
            scale=scale,
            validation_examples=rows.get("validation_x"),
        )

    def read(self, rows: np.ndarray, info: Info, classes: int | None) -> tuple[Any, ...]:
        """New arrays with these rows, as ``info`` says. In addition, a few pieces are in memory."""
        sizes = [len(part) for part in self._parts]
        ends = np.cumsum(sizes)
        found = map_structure(lambda like: np.empty((len(rows), *like.shape), like.dtype), info.structure)
        for part, start, end in zip(self._parts, ends - sizes, ends, strict=True):
            mine = np.flatnonzero((rows >= start) & (rows < end))
            for (name, stored), array in zip(part.arrays, leaves(found), strict=True):
                labels = info.classes is not None and name == part.names[1]
                for at, piece in pieces(stored, rows[mine] - start):
                    if labels:
                        with self._named(name):
                            piece = class_indices(piece, _limit(piece, classes), int(rows[mine[at[0]]] - start))
                    array[mine[at]] = piece
        return found

    def _check_alike(self, part: Part, first: Part, labels: bool) -> None:
        """Other names, types or shapes than the first part's are refused; class labels may be stored in two ways."""
        for name, mine, theirs, of in zip(part.names, part[:3], first[:3], first.names, strict=True):
            if mine is None or (name == part.names[1] and labels):
                continue
            own, expected = (list(named(map_structure(_described, each))) for each in (mine, theirs))
            with self._named(name):
                if own != expected:
                    raise UnfitError(f"of the type and shape of {of}, {_words(expected)}", _words(own))

    def _classes_or_why_not(self, classes: int | None) -> tuple[int | None, str]:
        """The number of classes, or None and what the targets are."""
        try:
            return self._classes(classes), ""
        except self._failure as error:
            if classes is not None or not isinstance(error.__cause__, UnfitError):
                raise
            return None, str(error.__cause__.received)

    def _classes(self, classes: int | None) -> int:
        """Read all labels and return the number of classes."""
        if classes is not None and not 2 <= classes <= MAX_CLASSES:
            raise UsageError(f"classes of {self._reference} must be 2..{MAX_CLASSES}. Received: {classes}")
        seen = np.zeros(MAX_CLASSES, bool)
        for part in self._parts:
            with self._named(part.names[1]):
                if is_empty(part.y):
                    raise UnfitError("class labels", "no targets")
                if isinstance(part.y, dict | tuple):
                    raise UnfitError("one array of class labels", f"{len(leaves(part.y))} arrays")
                checks.check_labels_shape(part.y)
                if is_one_hot(part.y):
                    if classes not in (None, part.y.shape[1]):
                        raise UnfitError(f"one-hot for {classes} classes", f"width {part.y.shape[1]}")
                    classes = part.y.shape[1]
        # One-hot labels first: their width limits the other labels only if they are valid.
        for part in sorted(self._parts, key=lambda part: not is_one_hot(part.y)):
            step = piece_rows(part.y)
            for start in range(0, len(part.y), step):
                with self._named(part.names[1]):
                    piece = part.y[start : start + step]
                    seen[class_indices(piece, classes or MAX_CLASSES, start)] = True
        if classes is not None:
            return classes
        with self._named("classes"):
            classes = checks.check_classes_found(seen, self.rows)
            if classes < 2:
                raise UnfitError(f"2..{MAX_CLASSES}", f"the same label, {classes - 1}, everywhere")
        return classes

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Turn UnfitError into ``failure`` that names the array."""
        with named_errors(name, self._reference, self._failure):
            yield


def check_options(dataset: Any) -> None:
    """Raise UsageError if some of a set's options are given, but not all."""
    untargeted = dataset.y == NO_TARGETS
    if untargeted and dataset.sample_weight is not None:
        raise UsageError(f"sample_weight of {dataset.name} must be left out with y={NO_TARGETS}.")
    for x, y, weight in SETS[1:]:
        given = [option for option in (x, y) if getattr(dataset, option) is not None]
        if untargeted and y in given:
            raise UsageError(
                f"{y} of {dataset.name} must be left out with y={NO_TARGETS}. Received: {getattr(dataset, y)!r}"
            )
        if len(given) == 1 and not untargeted:
            raise UsageError(f"{x} and {y} of {dataset.name} must be given together. Received: {given[0]} alone")
        weighted = getattr(dataset, weight) is not None
        if weighted != (bool(given) and dataset.sample_weight is not None):
            received = f"{weight} alone" if weighted else "sample_weight alone"
            raise UsageError(f"sample weights of {dataset.name} must be given for each set. Received: {received}")


@contextmanager
def named_errors(name: str, reference: str, failure: type[StratbenchError]) -> Iterator[None]:
    """Turn UnfitError into ``failure`` that names an array or an option."""
    try:
        yield
    except UnfitError as error:
        raise failure(f"{name} of {reference} must be {error.rule}. Received: {error.received}") from error


def _limit(labels: Any, classes: int | None) -> int:
    return labels.shape[1] if is_one_hot(labels) else classes or MAX_CLASSES


def _described(stored: Any) -> Array:
    return Array(tuple(stored.shape[1:]), type_name(stored.dtype))


def _with_width(like: Array, *stored: Any) -> Array:
    """With the type that the longest text of all sets needs."""
    if like.dtype != TEXT:
        return like
    return replace(like, dtype=f"S{max(each.dtype.itemsize for each in stored)}")


def _words(arrays: list[tuple[str, Array]]) -> str:
    return ", ".join(f"{name + ' ' if name else ''}{each.dtype} {each.shape}" for name, each in arrays)
