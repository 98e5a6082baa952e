"""The user's own examples, in an HDF5 file that may be larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, StratbenchError, UsageError
from ._arrays import checks
from ._arrays.checks import UnfitError, row_bytes
from ._arrays.hdf5_file import check_chunks, find, opened
from ._arrays.parts import EXAMPLES, SETS, Part, Parts, named_errors
from ._arrays.pieces import piece_rows
from ._arrays.sets import ArraysFile
from .base import Info
from .structure import leaves, named


@dataclass(frozen=True)
class Hdf5(ArraysFile):
    """Datasets of one file: x with a row for each example, y with their targets. If they are named, also sample
    weights, and its own validation and test sets. The name of a group stands for a dictionary of its datasets.

    Targets that are class indices, shape ``(n,)`` or ``(n, 1)``, or one-hot, shape ``(n, classes)``, are read as class
    indices; all others are read as they are. The file is opened for each read and closed after it, so processes never
    share a handle; it is never locked. Row numbers continue over the sets: x first, then validation_x, then test_x.
    """

    name = "hdf5"
    summary = "Your own HDF5 file, read in pieces: examples, of numbers or text, and their targets"
    licence = "that of your file"

    x: str = field(
        default="x", metadata={"help": "dataset with the examples, shape (n, ...), or group with one a model's input"}
    )
    y: str = field(
        default="y",
        metadata={
            "help": "dataset with class labels or other targets, or group with one an output; none without targets"
        },
    )

    def info(self) -> Info:
        """Check the file and describe it; targets that may be class labels are read once, in pieces.

        Raises UsageError for a file that is missing or unreadable, for a dataset that is missing, empty or of the
        wrong type, for datasets of different lengths, and, if ``classes`` is given, for targets that are not classes.
        """
        return self._info

    def read(self, rows: np.ndarray) -> tuple[Any, ...]:
        """See :meth:`Dataset.read`; arrays have their stored types in the machine's byte order.

        In addition to the result, a few pieces of 1 MiB (or one chunk, if that is larger) are in memory.
        """
        try:
            info = self._info
        except UsageError as error:
            raise DataError(str(error)) from error
        with self._parts(DataError) as parts:
            found = Parts(self.reference, parts, DataError)
            if len(rows) and rows.max() >= found.rows:
                raise DataError(
                    f"data set file must not change during the run. Received: {self.path!r}, now with {found.rows} rows"
                )
            return found.read(rows, info, self.classes)

    @cached_property
    def _info(self) -> Info:
        with self._parts(UsageError) as parts:
            for part in parts:
                for name, stored in part.arrays:
                    with named_errors(name, self.reference, UsageError):
                        check_chunks(stored, Path(stored.file.filename).stat().st_size)
            largest = max(leaves(parts[0].x), key=row_bytes)
            block_rows = largest.chunks[0] if largest.chunks else piece_rows(largest)
            info = Parts(self.reference, parts, UsageError).describe(self.classes, self.scale, block_rows)
            for part in parts:
                for _, stored in part.arrays:
                    # If a filter isn't installed, such as Blosc, the error occurs only here.
                    stored[:1]
            return info

    @contextmanager
    def _parts(self, failure: type[StratbenchError]) -> Iterator[list[Part]]:
        """Open the file and yield its sets, in the order of their rows. Their values are not checked yet."""
        with opened(self.path, failure) as file:
            parts: list[Part] = []
            for options in SETS:
                if getattr(self, options[0]) is not None:
                    x, y, weight = (self._member(file, option, failure) for option in options)
                    for other in parts:
                        if leaves(x)[0] == leaves(other.x)[0]:
                            found = f"{leaves(x)[0].name} for both"
                            with named_errors(options[0], self.reference, failure):
                                raise UnfitError(f"other examples than {other.names[0]}", found)
                    parts.append(Part(x, y, weight, options))
            yield parts

    def _member(self, file: Any, option: str, failure: type[StratbenchError]) -> Any:
        if self.is_left_out(option):
            return ()
        if getattr(self, option) is None:
            return None
        try:
            structure = find(file, getattr(self, option))
        except UnfitError as error:
            raise failure(f"{option} must be {error.rule}. Received: {error.received}") from None
        for name, stored in named(structure, option):
            with named_errors(name, self.reference, failure):
                checks.check_storage(stored, text=option in EXAMPLES)
        return structure
