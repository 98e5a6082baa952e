"""The data set interface, and how a reference such as ``synthetic:classes=4`` becomes a data set.

A data set is a module in this folder with one frozen dataclass derived from :class:`Dataset`. Its fields are the
user's options. There is no list of the modules: a new file is a new data set.

A reference is ``NAME[:ARGUMENT][,key=value...]``. ``ARGUMENT`` is the value of the field whose metadata says
``"positional": True``; it may hold commas, as paths do. Without such a field, ``NAME:key=value`` is valid too.
"""

import difflib
import importlib
import math
import pkgutil
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import UsageError
from .structure import named

Sharding = Literal["batch", "static"]


TEXT = "text"
"""In the place of a type."""


@dataclass(frozen=True)
class Array:
    """One array of a data set: ``shape`` of one example, ``dtype`` by NumPy's name.

    Text is UTF-8 bytes: ``S12`` holds at most 12 of them.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def type_words(self) -> str:
        """The type in words."""
        return TEXT if self.dtype.startswith("S") else self.dtype


Structure = Any
"""An `Array`, or a dictionary or tuple of structures."""

LABEL = Array((), "int32")
"""A class index."""


@dataclass(frozen=True)
class Info:
    """The properties of a data set that are known without reading all of it.

    ``examples`` counts all rows. If the data set has its own sets, rows ``[0, train_examples)`` are for training, the
    next ``validation_examples`` rows for validation, and the last ``test_examples`` rows are the test set; each is
    None if there is no such set. ``x``, ``y`` and ``sample_weight`` (None: there is none) say what ``read`` returns.
    ``block_rows`` is how many consecutive rows are cheap to read together. Examples must be multiplied by ``scale``
    before a model sees them (1: as stored); another scale than 1 needs a single array ``x``.

    ``y`` is ``()`` if there are no targets. ``classes`` is a number if ``y`` is one class index an example, and else
    None. Then ``not_classes`` says in a few words what ``y`` is. ``labels`` is how class labels are stored, and
    ``one_hot`` whether as a row with one 1 each.
    """

    train_examples: int | None
    test_examples: int | None
    examples: int
    x: Structure
    y: Structure = LABEL
    classes: int | None = None
    not_classes: str = ""
    labels: Array = LABEL
    one_hot: bool = False
    sample_weight: Structure | None = None
    block_rows: int = 1
    scale: Fraction = Fraction(1)
    validation_examples: int | None = None

    @property
    def structure(self) -> tuple[Structure, ...]:
        """Of what ``read`` returns."""
        return (self.x, self.y) if self.sample_weight is None else (self.x, self.y, self.sample_weight)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example. Raises UsageError if an example is several arrays."""
        if not isinstance(self.x, Array):
            raise UsageError(f"data set must have one array of examples. Received: {described(self.x)}.")
        return self.x.shape


def described(structure: Structure) -> str:
    """A structure in words: ``shape (28, 28, 1) and type uint8``, after their names if there are several arrays."""
    parts = [f"{name or 'array'} of shape {each.shape} and type {each.type_words}" for name, each in named(structure)]
    return parts[0].removeprefix("array of ") if isinstance(structure, Array) else "; ".join(parts)


@dataclass(frozen=True)
class Dataset(ABC):
    """Examples and their targets, addressed by row number. Subclasses are frozen dataclasses.

    ``sharding`` is the default way in which processes share the rows: see :class:`.batches.Batches`. ``members`` are
    the values of the argument, where there are few.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    licence: ClassVar[str]
    sharding: ClassVar[Sharding] = "batch"
    members: ClassVar[Collection[str]] = ()

    @abstractmethod
    def info(self) -> Info:
        """Describe the data set without reading all of it. Raises UsageError if something is missing or wrong."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> tuple[Structure, ...]:
        """Return examples ``x`` and targets ``y``, and sample weights if there are any: arrays as ``info()`` says.

        All are new arrays whose first axis has ``len(rows)`` elements, in the order of ``rows`` (int64). They have
        their stored types, but class labels are int32. Raises DataError if the data can't be read.
        """

    def digest(self) -> str:
        """Digits that change with the data, where the data may change under the same reference; else empty."""
        return ""

    @property
    def reference(self) -> str:
        """The shortest reference that :func:`parse` turns into an equal data set."""
        parts: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.metadata.get("internal"):
                continue
            if option.metadata.get("positional"):
                parts.insert(0, _as_text(value))
            elif value != option.default:
                parts.append(f"{option.name}={_as_text(value)}")
        return f"{self.name}:{','.join(parts)}" if parts else self.name


def available() -> dict[str, type[Dataset]]:
    """Return name → data set, from every module in this folder whose name doesn't start with ``_``."""
    found: dict[str, type[Dataset]] = {}
    for module_info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__package__}.{module_info.name}")
        for item in vars(module).values():
            if _is_dataset(item) and item.__module__ == module.__name__:
                found[item.name] = item
    return dict(sorted(found.items()))


def parse(reference: str, file: str = "") -> Dataset:
    """Turn a reference into its data set. No file is opened here: ``info()`` does this.

    ``file`` is where the examples of a function are kept, or what synthetic ones look like.

    Raises UsageError for unknown names and keys, for malformed values, for a missing argument, and for text that a
    table can't hold: with control characters, such as a newline, or not in UTF-8.
    """
    if len(reference) > _MAX_LENGTH:
        raise UsageError(f"data set must be at most {_MAX_LENGTH} characters long. Received: {len(reference)}")
    name, separator, rest = _REFERENCE.fullmatch(reference).groups()  # type: ignore[union-attr]
    known = available()
    if name not in known and _FUNCTION.fullmatch(reference):
        return known[_OF_FUNCTIONS](reference, file=file)  # type: ignore[call-arg]
    if name not in known:
        raise UsageError(
            _choice("data set", known, name, [f"{cls.name}:{each}" for cls in known.values() for each in cls.members])
        )
    if _UNPRINTABLE.search(reference):
        hint = "Rename the file, or give it a link with such a name"
        raise UsageError(f"data set must be UTF-8 without control characters. {hint}. Received: {reference!a}")
    cls = known[name]
    options = {option.name: option for option in fields(cls)}
    if separator and not options:
        raise UsageError(f"data set {name} must be given without options. Received: {reference!r}")
    values: dict[str, Any] = {}
    for key, text in _assignments(cls, separator, rest):
        if key not in options or options[key].metadata.get("internal"):
            raise UsageError(_choice(f"option of {name}", _offered(options), key))
        if key in values:
            raise UsageError(f"{key} of {name} must be given once. Received: {reference!r}")
        values[key] = _convert(f"{key} of {name}", _type(cls, options[key]), text)
    for key, option in options.items():
        if option.default is MISSING and key not in values:
            form = f"{name}:{key.upper()}" if option.metadata.get("positional") else f"{name}:{key}=..."
            raise UsageError(f"data set {name} must have its {key}, as in {form}. Received: {reference!r}")
    # A user can't give it: what is internal has no text.
    internal = {key: file for key, option in options.items() if option.metadata.get("internal") and file}
    return cls(**values | internal)


def describe(cls: type[Dataset]) -> dict[str, Any]:
    """What ``stratbench list datasets NAME`` shows: name, summary, licence and options.

    Each option of the user's has ``name``, ``type``, ``default`` (as the user would write it, "required" if there is
    none, None if it depends on the data) and ``help``.
    """
    options = [
        {
            "name": option.name,
            "type": _TYPES[_type(cls, option)][0],
            "default": _default(option),
            "help": option.metadata["help"],
        }
        for option in fields(cls)
        if not option.metadata.get("internal")
    ]
    return {"name": cls.name, "summary": cls.summary, "licence": cls.licence, "options": options}


def _integer(text: str) -> int:
    # int() also accepts 1_000, spaces and the digits of all scripts.
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_integer(size) for size in text.split("x"))


def _factor(text: str) -> Fraction:
    # The length is limited first: Fraction("1e999999999") would never end.
    if not _FACTOR.fullmatch(text):
        raise ValueError
    factor = Fraction(text)
    if not factor:
        raise ValueError
    return factor


_MAX_LENGTH = 4096
# Control characters, line separators, and lone surrogates, which stand for bytes that aren't UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INTEGER = re.compile(r"[+-]?[0-9]+")
# Numbers of the second form can be written in the first, which references use.
_FACTOR = re.compile(r"[0-9]{1,18}(/[1-9][0-9]{0,17})?|[0-9]{1,9}\.[0-9]{1,9}")
_REFERENCE = re.compile(r"([^:,]*)([:,]?)(.*)", re.DOTALL)
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z_0-9.]*:[A-Za-z_][A-Za-z_0-9]*")
_OF_FUNCTIONS = "package.module:function"
_KEY = re.compile(r"[a-z_]+=")
# Type of an option → its name in messages, and the converter of its text, which raises ValueError.
_TYPES: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("an integer", _integer),
    float: ("a number", _number),
    str: ("text", str),
    Fraction: ("a factor such as 1/255", _factor),
    tuple[int, ...]: ("a shape such as 28x28x1", _shape),
}


def _is_dataset(item: object) -> typing.TypeGuard[type[Dataset]]:
    # hasattr: helper classes between Dataset and the data sets of a module have no name.
    return isinstance(item, type) and issubclass(item, Dataset) and hasattr(item, "name")


def _type(cls: type[Dataset], option: "Field[Any]") -> Any:
    """Return the option's type; for ``X | None`` it is ``X``, because a user can't write None."""
    hint = typing.get_type_hints(cls)[option.name]
    return next(kind for kind in (hint, *typing.get_args(hint)) if kind in _TYPES)


def _assignments(cls: type[Dataset], separator: str, rest: str) -> Iterator[tuple[str, str]]:
    """Yield key and text of each option after the name."""
    items = rest.split(",") if separator else []
    names = [option.name for option in fields(cls)]
    positional = next((option.name for option in fields(cls) if option.metadata.get("positional")), None)
    if positional and separator == ":" and items[0].partition("=")[0] not in names:
        end = next((i for i, item in enumerate(items) if i > 0 and _KEY.match(item)), len(items))
        if argument := ",".join(items[:end]):
            yield positional, argument
        items = items[end:]
    for item in items:
        key, _, text = item.partition("=")
        if not key or not text:
            raise UsageError(f"options of data set {cls.name} must be key=value. Received: {item!r}")
        yield key, text


def _offered(options: "dict[str, Field[Any]]") -> list[str]:
    return [key for key, option in options.items() if not option.metadata.get("internal")]


def _convert(what: str, hint: Any, text: str) -> Any:
    kind, converter = _TYPES[hint]
    try:
        return converter(text)
    except ValueError:
        raise UsageError(f"{what} must be {kind}. Received: {text!r}") from None


def _choice(what: str, known: Collection[str], received: str, others: Collection[str] = ()) -> str:
    """Return the message for an unknown name, with the most similar known name, also one of ``others`` by its end."""
    near = [each for each in others if each.endswith(f":{received}")]
    near = near or difflib.get_close_matches(received, known, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(known)}. Received: {received!r}{hint}"


def _as_text(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _default(option: "Field[Any]") -> str | None:
    if option.default is MISSING:
        return "required"
    return None if option.default is None else _as_text(option.default)
