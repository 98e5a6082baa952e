"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

TEMPORARY = ".tmp"


class Staging:
    """Files written beside their targets, put in place together once all of them are on disk.

    Leaving the ``with`` block normally replaces the targets in the order they were written; leaving it by an
    error removes what was written and leaves every target as it was.
    """

    def __init__(self) -> None:
        self._targets: dict[Path, Path] = {}

    @contextmanager
    def file(self, target: Path) -> Iterator[BinaryIO]:
        """Open a temporary file, in ``target``'s folder, that will become ``target``."""
        temporary = target.with_name(target.name + TEMPORARY)
        self._targets[temporary] = target
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._replace()
        finally:
            for temporary in self._targets:
                temporary.unlink(missing_ok=True)

    def _replace(self) -> None:
        for temporary, target in self._targets.items():
            temporary.replace(target)
        for folder in {target.parent for target in self._targets.values()}:
            # The new names are on disk only once the folder itself is.
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
