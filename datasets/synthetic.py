"""Generated examples of any shape and number, to measure speed without a file."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ._arrays.blocks import by_block
from ._arrays.draw import Source
from ._arrays.form import Form, Kind, Values, described, described_part
from ._arrays.prepared import digest_of
from .base import LABEL, Array, Dataset, Info
from .structure import map_structure

__all__ = ["Form", "Kind", "Synthetic", "Values", "described"]

_MAX_EXAMPLES = 100_000_000
_MAX_DIMENSIONS = 16  # NumPy's limit is 32, with the dimension of the examples
_MAX_VALUES = 2**24  # of one example: 64 MiB
_MAX_MEANS = 2**26  # values of all class means together: 256 MiB
_MOST_HIDDEN = 100
_USUAL_HIDDEN = 10
_BLOCK_BYTES = 2**20
_KEPT_BYTES = 64 * 2**20
_SHAPE, _CLASSES = (28, 28, 1), 10


@dataclass(frozen=True)
class Synthetic(Dataset):
    """Without shape and classes, the examples fit the model: its inputs, outputs and loss say what they are. A model
    that takes examples of any shape gets 28x28x1 and 10 classes.

    Every example has a class. Real values are the mean of this class, of length 4 in a random direction, plus noise
    with a standard deviation of 1 per value. Of ids, small ones are frequent, and half of them tell the class. Targets
    follow from the class; those of a language model are the next tokens, most of which follow from the ones before.

    Rows are generated in blocks, each from its own seed: the values of a row don't depend on which rows are read.
    """

    name = "synthetic"
    summary = "Generated examples that can be learnt: those that the model takes, or of any shape and number"
    licence = "none needed: generated data"

    shape: tuple[int, ...] | None = field(
        default=None, metadata={"help": "shape of one example, of real numbers (28x28x1 if only classes is given)"}
    )
    classes: int | None = field(
        default=None, metadata={"help": "number of classes, all equally likely (10 if only shape is given)"}
    )
    examples: int = field(default=12_000, metadata={"help": "number of examples, split 80/10/10 by default"})
    seed: int = field(default=0, metadata={"help": "seed of means, labels and noise"})
    file: str = field(default="", metadata={"help": "what they look like", "internal": True})

    def __post_init__(self) -> None:
        shape, classes = self._given
        values = math.prod(shape) if min(shape, default=0) > 0 else 0
        for what, value, low, high in (
            ("dimensions of one example of synthetic", len(shape), 1, _MAX_DIMENSIONS),
            ("values in one example of synthetic", values, 1, _MAX_VALUES),
            ("classes of synthetic", classes, 2, _MAX_MEANS // max(1, values)),
            ("examples of synthetic", self.examples, 1, _MAX_EXAMPLES),
            ("seed of synthetic", self.seed, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise UsageError(f"{what} must be {low}..{high}. Received: {value}")

    @property
    def fits_model(self) -> bool:
        """Whether the user leaves it to the model what the examples are."""
        return self.shape is None and self.classes is None

    @property
    def _given(self) -> tuple[tuple[int, ...], int]:
        """Shape and classes."""
        return _SHAPE if self.shape is None else self.shape, _CLASSES if self.classes is None else self.classes

    @cached_property
    def form(self) -> Form:
        """What the examples are. Raises DataError if the file that says it can't be read."""
        if not self.file:
            shape, classes = self._given
            return Form(Values(shape), Values((), LABEL.dtype, "label", classes))
        try:
            return Form.from_json(Path(self.file).read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"what synthetic examples look like can't be read from {self.file}: {error}") from None

    def info(self) -> Info:
        """See :meth:`Dataset.info`."""
        x, y = (map_structure(lambda each: Array(each.shape, each.dtype), part) for part in (self.form.x, self.form.y))
        target = self.form.y
        labelled = isinstance(target, Values) and target.kind == "label" and not target.shape
        return Info(
            None,
            None,
            self.examples,
            x,
            y,
            classes=target.below if labelled else None,
            not_classes="" if labelled else f"generated to fit the model: {described_part(target, 'y')}",
            block_rows=self._block_rows,
        )

    def read(self, rows: np.ndarray) -> tuple[Any, Any]:
        """See :meth:`Dataset.read`. The first read keeps all examples, up to 64 MiB."""
        if self.examples * self._example_bytes > _KEPT_BYTES:
            return self._generate(rows)
        return map_structure(lambda each: each[rows], self._all)

    def digest(self) -> str:
        """See :meth:`Dataset.digest`: of what the examples look like."""
        return digest_of(Path(self.file)) if self.file else ""

    @property
    def _example_bytes(self) -> int:
        return sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in self.form.leaves)

    @property
    def _block_rows(self) -> int:
        # At least a hundred blocks, so that splits by whole blocks are close to their percentages.
        return max(1, min(_BLOCK_BYTES // self._example_bytes, self.examples // 100))

    @cached_property
    def _all(self) -> tuple[Any, Any]:
        return self._generate(np.arange(self.examples))

    @cached_property
    def _source(self) -> Source:
        labels = [each.below for each in self.form.leaves if each.kind == "label" and each.below]
        hidden = labels[0] if labels else _USUAL_HIDDEN
        fitted = bool(self.file)
        return Source(self.form, min(hidden, _MOST_HIDDEN) if fitted else hidden, self.seed, clear=fitted)

    def _generate(self, rows: np.ndarray) -> tuple[Any, Any]:
        form = (self.form.x, self.form.y)
        found = map_structure(lambda each: np.empty((len(rows), *each.shape), each.dtype), form)
        for block, places in by_block(rows, self._block_rows):
            chosen = rows[places] - block * self._block_rows
            drawn = self._source.block(block, self._block_rows)

            def put(into: np.ndarray, values: np.ndarray, places: Any = places, chosen: Any = chosen) -> None:
                into[places] = values[chosen]

            map_structure(put, found, drawn)
        return found
