"""A file with the examples that a function of the user's returned: written once, read as any HDF5 file.

Arrays of a structure are stored under numbers, as HDF5 does not take all keys. The attribute ``forms`` says what the
structures are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..structure import leaves, named
from .checks import UnfitError, check_array, check_rows
from .parts import EXAMPLES, SETS
from .text import type_name

NAMES = ("train", "validation", "test")
"""Sets, in the order of `SETS`. The first one is always there."""
DIGITS = 12

Examples = tuple[Any, ...]
"""A set: structures of NumPy arrays: ``(x, y)`` or ``(x, y, sample_weight)``."""


def check(sets: Mapping[str, Examples]) -> None:
    """Raise UnfitError, whose rule begins with the array's name, for what can't be kept or read as one data set."""
    first = sets[NAMES[0]]
    for name, each in sets.items():
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


def write(path: Path, sets: Mapping[str, Examples]) -> str:
    """Write the arrays, and return digits from the SHA-256 of them. Raises OSError."""
    import h5py

    digest = hashlib.sha256()
    with h5py.File(path, "w") as file:
        for name, each in sets.items():
            stored = SETS[NAMES.index(name)]
            for array_name, array in _flat(each, stored):
                array = np.ascontiguousarray(array)
                digest.update(f"{array_name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.view(np.uint8).data if array.size else b"")
                file[array_name] = array
        forms = json.dumps([form_of(each) for each in sets[NAMES[0]]])
        digest.update(forms.encode())
        file.attrs["forms"], file.attrs["sets"] = forms, json.dumps(list(sets))
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
