"""The user's own arrays, in a file that ``np.savez`` wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, StratbenchError, UsageError
from ._arrays import checks
from ._arrays.checks import UnfitError
from ._arrays.parts import EXAMPLES, SETS, Part, Parts, named_errors
from ._arrays.sets import ArraysFile
from ._arrays.text import encoded, is_text
from .base import Info

_OF_KERAS = {"x": "x_train", "y": "y_train", "test_x": "x_test", "test_y": "y_test"}
"""Names in the files that Keras's own data sets are downloaded as."""
_MOST_NAMES = 20


@dataclass(frozen=True)
class Npz(ArraysFile):
    """Arrays of one file: x with a row for each example, y with their targets. If they are named, also sample
    weights, and its own validation and test sets. Targets are as in ``hdf5``. Each process keeps them in memory.
    """

    name = "npz"
    summary = "Your own NumPy file, as np.savez writes it: examples, of numbers or text, and their targets"
    licence = "that of your file"

    x: str | None = field(default=None, metadata={"help": "array with the examples; default: x, or Keras's x_train"})
    y: str | None = field(
        default=None, metadata={"help": "array with labels or other targets, none without any; default: y, or y_train"}
    )
    test_x: str | None = field(
        default=None, metadata={"help": "array with the test set's examples; default: x_test, else a share of x"}
    )

    def info(self) -> Info:
        """Read and check all arrays.

        Raises UsageError for a file that is missing or damaged, for an array that is missing, empty or of the wrong
        type, for arrays of different lengths, and, if ``classes`` is given, for targets that are not classes.
        """
        return self._info

    def read(self, rows: np.ndarray) -> tuple[Any, ...]:
        """See :meth:`Dataset.read`; the first read keeps all arrays."""
        try:
            return self._parts.read(rows, self._info, self.classes)
        except UsageError as error:
            raise DataError(str(error)) from error

    @cached_property
    def _info(self) -> Info:
        return self._parts.describe(self.classes, self.scale, 1)

    @cached_property
    def _parts(self) -> Parts:
        with _opened(self.path) as file:
            names = self._names(file.files)
            parts = [
                Part(*(self._array(file, option, names[option]) for option in options), options)  # type: ignore[call-arg]
                for options in SETS
                if names[options[0]] is not None
            ]
        return Parts(self.reference, parts, UsageError)

    def _names(self, stored: list[str]) -> dict[str, str | None]:
        """Option → name of its array."""
        names = {option: getattr(self, option) for options in SETS for option in options}
        if names["x"] is None and names["y"] is None and "x" not in stored and "x_train" in stored:
            return {option: name or _of_keras(option, stored) for option, name in names.items()}
        return names | {"x": names["x"] or "x", "y": names["y"] or "y"}

    def _array(self, file: Any, option: str, name: str | None) -> Any:
        if self.is_left_out(option):
            return ()
        if name is None:
            return None
        with named_errors(option, self.reference, UsageError):
            if name not in file.files:
                more = ", and more" if len(file.files) > _MOST_NAMES else ""
                listed = ", ".join(sorted(file.files)[:_MOST_NAMES]) or "it has none"
                raise UnfitError(f"one of the arrays in the file: {listed}{more}", repr(name))
            array = file[name]
            checks.check_array(array, text=option in EXAMPLES)
        return encoded(array) if is_text(array.dtype) else array


def _of_keras(option: str, stored: list[str]) -> str | None:
    name = _OF_KERAS.get(option)
    return name if name in stored else None


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The file, with ``files`` (names) and arrays by name. Raises UsageError if it can't be read."""
    try:
        place = Path(path).expanduser()
        # Opening a FIFO would wait for a writer.
        if not place.is_file():
            what = "a regular file" if place.exists() else "an existing file"
            raise UsageError(f"data set file must be {what}. Received: {path!r}")
        file = np.load(place, allow_pickle=False)
        if not hasattr(file, "files"):
            raise ValueError("it has a single array; np.savez writes several with their names")
        with file:
            yield file
    except StratbenchError:
        raise
    except Exception as error:  # NumPy, zipfile and decompressors each raise their own errors for invalid bytes
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"data set file must be readable by np.load. Received: {path!r} ({reason})") from error
