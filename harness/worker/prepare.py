"""Makes examples ready, and keeps them: ``python -P -m stratbench.harness.worker.prepare FOLDER``.

They are those of a user's data function, of ``keras.datasets``, or of TFRecord files. The answer is
``{"file": name in the folder, "examples": number}``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...datasets.prepared import NAMES, Examples, Set, UnfitError, check, keep
from ...errors import DataError, UsageError
from ..launch.asking import PROGRESS
from . import examples, importing
from .answering import answer
from .records import read as read_records
from .wording import one_line


def main() -> None:
    """Answer the launcher's question."""
    answer(lambda question: prepare(**json.loads(question)))


def prepare(
    folder: str,
    function: str = "",
    of_keras: str = "",
    words: Mapping[str, int] | None = None,
    records: Mapping[str, Any] | None = None,
    timeout: float = math.inf,
) -> dict[str, Any]:
    """Keep the examples of a function, of a data set of Keras's, or of records. Raises UsageError in one line.

    Args:
        words: ``num_words`` and ``maxlen`` of a data set of texts.
        records: arguments of `records.read`.
        timeout: in seconds, for examples whose number is not known before.
    """

    tell = Progress(Path(folder) / PROGRESS)
    read: Callable[[], Mapping[str, Set]]
    if records:
        what, read = "data set tfrecord", lambda: read_records(**records, tell=tell)
    elif of_keras:
        what, read = f"data set keras:{of_keras}", lambda: _of_keras(of_keras, words or {})
    else:
        what, returned = f"data set {function}", _returned(function)
        read = lambda: examples.sets(returned, tell, timeout)  # noqa: E731
    with _named(what):
        sets = read()
        check(sets)
        file = keep(Path(folder), sets, tell)
    return {"file": file.name, "examples": sum(examples.count(each) for each in sets.values())}


class Progress:
    """Writes what it is told to a file, at most once a second."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic):
        self._file, self._clock = file, clock
        self._last = clock()

    def __call__(self, words: str) -> None:
        """Tell."""
        if self._clock() >= self._last + 1:
            self._last = self._clock()
            self._file.write_text(words)


def _returned(function: str) -> Any:
    call = importing.function(function, "data set")
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise UsageError(f"data set {function} failed when called without arguments: {one_line(error)}") from error


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn all errors into those of stratbench that name the data set."""
    try:
        yield
    except UsageError:
        raise
    except UnfitError as error:
        raise UsageError(f"{what}: {error.rule}. Received: {error.received}.") from error
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    except Exception as error:
        raise UsageError(f"{what} failed while its examples were read: {one_line(error)}") from error


def _of_keras(name: str, words: Mapping[str, int]) -> Mapping[str, Examples]:
    import keras

    given = {"num_words": words["num_words"]} if words else {}
    try:
        train, test = getattr(keras.datasets, name).load_data(**given)
    except Exception as error:
        raise UsageError(
            f"data set keras:{name} can't be loaded by keras.datasets.{name}.load_data(), which needs a network or "
            f"Keras's cache: {one_line(error)}"
        ) from error

    def arrays(x: Any, y: Any) -> Examples:
        if words:
            x = keras.utils.pad_sequences(x, maxlen=words["maxlen"])
        # Keras's grey images have no axis of channels.
        return (x[..., None] if x.ndim == 3 else x), y

    return {NAMES[0]: arrays(*train), NAMES[-1]: arrays(*test)}


if __name__ == "__main__":
    main()
