"""A file with examples that were made ready: written once, read as any HDF5 file.

Arrays of a structure are stored under numbers, as HDF5 does not take all keys. The attribute ``forms`` says what the
structures are.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import DataError
from ..structure import leaves, named
from .checks import UnfitError, check_array, check_rows
from .parts import EXAMPLES, SETS
from .pieces import piece_rows
from .text import type_name

NAMES = ("train", "validation", "test")
"""Sets, in the order of `SETS`. The first one is always there."""
DIGITS = 12

Examples = tuple[Any, ...]
"""A set: structures of NumPy arrays: ``(x, y)`` or ``(x, y, sample_weight)``."""


@dataclass(frozen=True)
class Column:
    """In the place of an array that is not in memory as a whole. ``shape`` begins with the number of examples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """As NumPy has it."""
        return math.prod(self.shape) * self.dtype.itemsize


class Streamed(Protocol):
    """A set that is not in memory as a whole. ``examples`` has a `Column` for each array."""

    examples: Examples

    def parts(self) -> Iterator[tuple[np.ndarray, Examples]]:
        """Numbers of rows, and arrays of these. A row may come again; then the last time counts."""


Set = Examples | Streamed


def look_of(each: Set) -> Examples:
    """Structures that have a type, a shape and a length."""
    return each if isinstance(each, tuple) else each.examples


def check(sets: Mapping[str, Set]) -> None:
    """Raise UnfitError, whose rule begins with the array's name, for what can't be kept or read as one data set."""
    looks = {name: look_of(each) for name, each in sets.items()}
    first = looks[NAMES[0]]
    for name, each in looks.items():
        if len(each) != len(first):
            raise UnfitError(f"the {name} set must have sample weights if the others have some", f"{len(each)} parts")
        start = leaves(each)[0]
        for part, structure, like in zip(SETS[0], each, first, strict=False):
            for array_name, array in named(structure, f"{part} of the {name} set"):
                try:
                    check_array(array, text=part in EXAMPLES)
                    check_rows(array, len(start), f"the other arrays of the {name} set")
                except UnfitError as error:
                    raise UnfitError(f"{array_name} must be {error.rule}", error.received) from None
            _check_alike(f"{part} of the {name} set", structure, like)


def size_bytes(sets: Mapping[str, Set]) -> int:
    """Of all arrays."""
    return sum(array.nbytes for each in sets.values() for array in leaves(look_of(each)))


def write(path: Path, sets: Mapping[str, Set], tell: Callable[[str], None]) -> str:
    """Write the arrays, and return digits from the SHA-256 of them.

    Raises:
        DataError: they can't be written. What a stream raises comes, too.
    """
    import h5py

    forms = json.dumps([form_of(each) for each in look_of(sets[NAMES[0]])])
    with _written(path), h5py.File(path, "w") as file:
        for name, each in sets.items():
            parts = SETS[NAMES.index(name)]
            if isinstance(each, tuple):
                for array_name, array in _flat(each, parts):
                    file[array_name] = np.ascontiguousarray(array)
            else:
                _write_stream(file, each, parts)
        file.attrs["forms"], file.attrs["sets"] = forms, json.dumps(list(sets))
        return _digest(file, sets, forms, tell)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn HDF5's errors into a DataError, but not those of a stream."""
    try:
        yield
    except _StreamError as error:
        raise error.error from None
    except (OSError, RuntimeError) as error:
        raise DataError(f"the examples can't be written to {path.parent}: {' '.join(str(error).split())}") from error


class _StreamError(Exception):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error


def _parts(each: Streamed) -> Iterator[tuple[np.ndarray, Examples]]:
    try:
        yield from each.parts()
    except Exception as error:
        raise _StreamError(error) from error


def _write_stream(file: Any, each: Streamed, names: tuple[str, ...]) -> None:
    columns = _flat(each.examples, names)
    for name, column in columns:
        file.create_dataset(name, column.shape, column.dtype)
    for rows, part in _parts(each):
        # HDF5 takes rows in ascending order, and many at once only if they follow one another.
        order = np.argsort(rows)
        first, last = rows[order[0]], rows[order[-1]]
        place = slice(first, last + 1) if last - first == len(rows) - 1 else rows[order]
        for (name, column), (_, array) in zip(columns, _flat(part, names), strict=True):
            file[name][place] = array[order].astype(column.dtype, copy=False)


def _digest(file: Any, sets: Mapping[str, Set], forms: str, tell: Callable[[str], None]) -> str:
    digest = hashlib.sha256()
    for name, each in sets.items():
        for array_name, _ in _flat(look_of(each), SETS[NAMES.index(name)]):
            stored = file[array_name]
            digest.update(f"{array_name} {stored.dtype.str} {stored.shape}\n".encode())
            step = piece_rows(stored)
            for start in range(0, len(stored), step):
                digest.update(np.ascontiguousarray(stored[start : start + step]).view(np.uint8).data)
                tell(f"{start + step:,} examples of the {name} set checked")
    digest.update(forms.encode())
    return digest.hexdigest()[:DIGITS]


def named_by(digest: str) -> str:
    """The file's name."""
    return f"data-{digest}.h5"


def digest_of(path: Path) -> str:
    """What `named_by` made the name from."""
    return path.stem.rpartition("-")[2]


def form_of(structure: Any) -> Any:
    """None for an array; ``["tuple", forms]`` or ``["dict", [[key, form], …]]``."""
    if isinstance(structure, dict):
        return ["dict", [[key, form_of(each)] for key, each in structure.items()]]
    if isinstance(structure, tuple):
        return ["tuple", [form_of(each) for each in structure]]
    return None


def restored(structure: Any, form: Any) -> Any:
    """The structure that was written, from the numbered one that is read."""
    if form is None:
        return structure
    kind, members = form
    if kind == "dict":
        return {key: restored(structure[_number(i)], each) for i, (key, each) in enumerate(members)}
    return tuple(restored(structure[_number(i)], each) for i, each in enumerate(members))


def _flat(each: Examples, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [pair for name, structure in zip(names, each, strict=False) for pair in named(_numbered(structure), name)]


def _numbered(structure: Any) -> Any:
    if isinstance(structure, dict | tuple):
        members = structure.values() if isinstance(structure, dict) else structure
        return {_number(i): _numbered(each) for i, each in enumerate(members)}
    return structure


def _number(place: int) -> str:
    # Of one length, as names are read in the order of text.
    return f"{place:03d}"


def _check_alike(name: str, structure: Any, like: Any) -> None:
    found, expected = (
        ", ".join(f"{key} {type_name(each.dtype)} {each.shape[1:]}".strip() for key, each in named(some))
        for some in (structure, like)
    )
    if found != expected:
        raise UnfitError(f"{name} must be of the type and shape of the train set, {expected}", found)
