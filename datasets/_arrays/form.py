"""What generated examples look like: a structure of `Values`, and how it is written to a file."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from ..structure import leaves, named
from .prepared import DIGITS

Kind = Literal["values", "label", "one-hot", "binary", "next"]
_KINDS: dict[str, str] = {
    "values": "",
    "label": "one of {below} classes",
    "one-hot": "one-hot",
    "binary": "0 or 1",
    "next": "the next of {below} ids",
}


@dataclass(frozen=True)
class Values:
    """One array.

    Attributes:
        shape: of one example.
        dtype: by NumPy's name.
        kind: of a target: ``values`` as of any array, a class index ``label``, a row ``one-hot`` along the last axis,
            0 and 1 (``binary``), or the token that follows in the first sequence of ids of this shape (``next``).
        below: whole numbers are from 0 up to this, without it; None for real numbers.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: Kind = "values"
    below: int | None = None

    def __str__(self) -> str:
        kind = _KINDS[self.kind] or ("" if self.below is None else "ids below {below}")
        return f"{self.dtype} {self.shape}" + f" {kind}".rstrip().format(below=f"{self.below:,}" if self.below else "")


@dataclass(frozen=True)
class Form:
    """Examples and targets: structures of `Values`."""

    x: Any
    y: Any

    @property
    def leaves(self) -> list[Values]:
        """All arrays, in order."""
        return [*leaves(self.x), *leaves(self.y)]

    def to_json(self) -> str:
        """For a file, or for another process."""
        return json.dumps({"x": _packed(self.x), "y": _packed(self.y)})

    @classmethod
    def from_json(cls, text: str) -> "Form":
        """From what `to_json` returned. Raises KeyError, TypeError or ValueError for anything else."""
        found = json.loads(text)
        return cls(_unpacked(found["x"]), _unpacked(found["y"]))

    @property
    def file_name(self) -> str:
        """Named by the content, so that `digest_of` can tell it."""
        return f"form-{hashlib.sha256(self.to_json().encode()).hexdigest()[:DIGITS]}.json"


def _packed(structure: Any) -> Any:
    if isinstance(structure, dict):
        return {"dict": {key: _packed(each) for key, each in structure.items()}}
    if isinstance(structure, tuple):
        return {"tuple": [_packed(each) for each in structure]}
    return dataclasses.asdict(structure)


def _unpacked(found: Any) -> Any:
    if "dict" in found:
        return {key: _unpacked(each) for key, each in found["dict"].items()}
    if "tuple" in found:
        return tuple(_unpacked(each) for each in found["tuple"])
    return Values(**found | {"shape": tuple(found["shape"])})


def described(form: Form) -> str:
    """In words, for people."""
    return f"{described_part(form.x, 'x')}; {described_part(form.y, 'y')}"


def described_part(structure: Any, name: str) -> str:
    """A structure of `Values`, which has this name."""
    return "; ".join(f"{part} {each}" for part, each in named(structure, name))
