"""Data sets whose examples are made ready once a command, in a process that has Keras, and then read from a file."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ._arrays import prepared
from ._arrays.checks import UnfitError
from ._arrays.hdf5_file import opened
from ._arrays.parts import NO_TARGETS, SETS, TARGETS
from ._arrays.prepared import NAMES, Column, Examples, Set, check, look_of
from ._arrays.text import encoded, is_text
from .base import Dataset, Info
from .hdf5 import Hdf5

__all__ = [
    "NAMES",
    "PARTS",
    "Column",
    "Examples",
    "Function",
    "OfKeras",
    "Prepared",
    "Records",
    "Set",
    "UnfitError",
    "check",
    "encoded",
    "is_text",
    "keep",
    "look_of",
]


PARTS = SETS[0]
"""Of a set."""


def keep(folder: Path, sets: Mapping[str, Set], tell: Callable[[str], None] = lambda words: None) -> Path:
    """Write the examples to a file in this folder, named by their content.

    Args:
        tell: told how far it is.

    Raises:
        DataError: they can't be written, such as where the disk has no room. What a stream raises comes, too.
    """
    needed, free = (each / 2**20 for each in (prepared.size_bytes(sets), shutil.disk_usage(folder).free))
    if needed > free:
        raise DataError(f"the examples take {needed:,.0f} MiB, and the output folder's disk has {free:,.0f} MiB left")
    unnamed = folder / "unnamed.h5"
    return unnamed.rename(folder / prepared.named_by(prepared.write(unnamed, sets, tell)))


@dataclass(frozen=True)
class Prepared(Dataset):
    """What both kinds share: the examples are in ``file``."""

    file: str = field(default="", kw_only=True, metadata={"help": "where the examples are kept", "internal": True})

    @property
    def question(self) -> dict[str, Any]:
        """What ``harness.worker.prepare`` is asked for."""
        raise NotImplementedError

    @property
    def factor(self) -> Fraction:
        """By which the model's inputs are scaled."""
        return Fraction(1)

    def info(self) -> Info:
        """See :meth:`Dataset.info`. Raises UsageError before the examples were prepared."""
        kept = self._kept.info()
        parts = [prepared.restored(each, form) for each, form in zip(kept.structure, self._forms, strict=True)]
        return replace(kept, **dict(zip(SETS[0], parts, strict=False)))

    def read(self, rows: np.ndarray) -> tuple[Any, ...]:
        """See :meth:`Dataset.read`."""
        found = self._kept.read(rows)
        return tuple(prepared.restored(each, form) for each, form in zip(found, self._forms, strict=True))

    def digest(self) -> str:
        """See :meth:`Dataset.digest`: of all examples."""
        return prepared.digest_of(Path(self.file)) if self.file else ""

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        if not self.file:
            raise UsageError(f"data set {self.reference} must be prepared by the command line first")
        with opened(self.file, UsageError) as file:
            return {name: json.loads(file.attrs[name]) for name in ("forms", "sets")}

    @property
    def _forms(self) -> list[Any]:
        return self._attributes["forms"]

    @cached_property
    def _kept(self) -> Hdf5:
        weighted = len(self._forms) > 2
        names: list[Any] = [option for name in self._attributes["sets"] for option in SETS[NAMES.index(name)]]
        options: dict[str, Any] = {name: name for name in names if weighted or "sample_weight" not in name}
        if self._forms[1] == prepared.form_of(()):
            options = {name: name for name in options if name not in TARGETS} | {"y": NO_TARGETS}
        return Hdf5(self.file, scale=self.factor, **options)


@dataclass(frozen=True)
class Function(Prepared):
    """Examples of a function, which is called once for each command, with no arguments.

    It returns what ``model.fit`` takes: ``(x, y)`` or ``(x, y, sample_weight)``, structures of arrays; one array ``x``;
    a ``keras.utils.PyDataset``; a ``tf.data.Dataset`` of batches; or a sequence with an ``(x, y)`` for each index.
    Each of these may be without ``y``.
    ``(train, test)`` and ``(train, validation, test)`` of these, and a dictionary with these keys, have sets of their
    own. The examples are kept in a file of the output folder, so that all processes read the same ones, and each is
    used once in an epoch, in an order that stratbench chooses: what the function shuffles or batches makes no
    difference. So it must give the same examples each time. Types reach the model as they are.
    """

    name = "package.module:function"
    summary = "Your own function: returns arrays, a PyDataset, a tf.data.Dataset, or a sequence of examples"
    licence = "that of your data"

    function: str = field(metadata={"help": "package.module:function", "positional": True})

    @property
    def question(self) -> dict[str, Any]:
        """See `Prepared.question`."""
        return {"function": self.function}

    @property
    def reference(self) -> str:
        """See :attr:`Dataset.reference`."""
        return self.function


_IMAGES = ("mnist", "fashion_mnist", "cifar10", "cifar100")
_TEXTS = ("imdb", "reuters")
_NUMBERS = ("boston_housing", "california_housing")
_MOST_WORDS, _LENGTH = 20_000, 200


@dataclass(frozen=True)
class OfKeras(Prepared):
    """A data set of ``keras.datasets``, from Keras's cache or its download, with its own test set.

    Images have the shape (height, width, channels). Texts are token ids of equal length: the last ``maxlen`` of each,
    with zeros before shorter ones, as ``keras.utils.pad_sequences`` has it.
    """

    name = "keras"
    summary = f"Keras's own: keras:NAME, one of {', '.join((*_IMAGES, *_TEXTS, *_NUMBERS))}"
    licence = "that of the data set: see https://keras.io/api/datasets/"
    members = (*_IMAGES, *_TEXTS, *_NUMBERS)

    dataset: str = field(metadata={"help": "name in keras.datasets, as in keras:cifar10", "positional": True})
    scale: Fraction | None = field(
        default=None, metadata={"help": "factor on the stored examples; default: 1/255 for images, else 1"}
    )
    num_words: int | None = field(
        default=None,
        metadata={"help": f"imdb and reuters: how many words are told apart [{_MOST_WORDS}]"},
    )
    maxlen: int | None = field(default=None, metadata={"help": f"imdb and reuters: words of an example [{_LENGTH}]"})

    def __post_init__(self) -> None:
        if self.dataset not in self.members:
            raise UsageError(
                f"data set keras:NAME must be one of {', '.join(self.members)}. Received: {self.dataset!r}"
            )
        for option in ("num_words", "maxlen"):
            value = getattr(self, option)
            if value is not None and (self.dataset not in _TEXTS or value < 1):
                raise UsageError(
                    f"{option} of data set keras must be at least 1, and is for {' and '.join(_TEXTS)}. "
                    f"Received: {value} for {self.dataset}"
                )

    @property
    def factor(self) -> Fraction:
        """See `Prepared.factor`."""
        return self.scale or Fraction(1, 255 if self.dataset in _IMAGES else 1)

    @property
    def question(self) -> dict[str, Any]:
        """See `Prepared.question`."""
        words = {"num_words": self.num_words or _MOST_WORDS, "maxlen": self.maxlen or _LENGTH}
        return {"of_keras": self.dataset, "words": words if self.dataset in _TEXTS else {}}


@dataclass(frozen=True)
class Records(Prepared):
    """Records of TFRecord files, which are read once for each command, in the order of the files' names.

    What a record holds is said in Python: by a dictionary of ``tf.io`` features, of which ``x`` and ``y`` choose some,
    or by a function that makes (x, y) of a serialized record.
    """

    name = "tfrecord"
    summary = "Your own TFRecord files: tfrecord:PATTERN with a description of features, or a function that parses"
    licence = "that of your files"

    pattern: str = field(metadata={"help": "files, as in data/train-*.tfrecord", "positional": True})
    features: str | None = field(
        default=None, metadata={"help": "package.module:NAME of a dictionary of features, as of tf.io.FixedLenFeature"}
    )
    parse: str | None = field(
        default=None, metadata={"help": "package.module:function that makes (x, y) of a record, in place of features"}
    )
    x: str | None = field(
        default=None, metadata={"help": "feature of the examples, or several, as in x=left+right; default: x"}
    )
    y: str | None = field(default=None, metadata={"help": "feature of the targets; none without targets; default: y"})
    validation: str | None = field(default=None, metadata={"help": "files of its own validation set"})
    test: str | None = field(
        default=None, metadata={"help": "files of its own test set; default: a share of the others"}
    )
    compression: str | None = field(default=None, metadata={"help": "of the files: gzip or zlib; default: none"})
    scale: Fraction = field(default=Fraction(1), metadata={"help": "factor on the stored examples, as in 1/255"})

    def __post_init__(self) -> None:
        if (self.features is None) == (self.parse is None):
            raise UsageError(
                "data set tfrecord must have features= or parse=, one of them, as in features=train:FEATURES"
            )
        for option in ("x", "y"):
            if self.parse is not None and getattr(self, option) is not None:
                raise UsageError(
                    f"{option} of data set tfrecord is for features=; what parse= returns is used as it is"
                )
        if self.compression not in (None, "gzip", "zlib"):
            raise UsageError(f"compression of data set tfrecord must be gzip or zlib. Received: {self.compression!r}")
        for option in ("features", "parse"):
            value = getattr(self, option)
            if value is not None and not re.fullmatch(r"[^:]+:\w+", value):
                raise UsageError(f"{option} of data set tfrecord must be package.module:NAME. Received: {value!r}")

    @property
    def factor(self) -> Fraction:
        """See `Prepared.factor`."""
        return self.scale

    @property
    def question(self) -> dict[str, Any]:
        """See `Prepared.question`."""
        patterns = {"train": self.pattern, "validation": self.validation, "test": self.test}
        return {
            "records": {
                "patterns": {name: pattern for name, pattern in patterns.items() if pattern is not None},
                "features": self.features,
                "parse": self.parse,
                "x": (self.x or "x").split("+"),
                "y": [] if self.y == NO_TARGETS else (self.y or "y").split("+"),
                "compression": (self.compression or "").upper(),
            }
        }
