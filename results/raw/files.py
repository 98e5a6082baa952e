"""Files that are replaced completely or not at all, and files of other programs, which may hold anything."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

TEMPORARY = ".tmp"
ASIDE = ".aside-"


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message of one line: control characters and bytes that aren't UTF-8 are escaped."""
    text = os.fspath(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def why(error: OSError) -> str:
    """The reason of an error of the operating system, in words."""
    return error.strerror or str(error)


def file_kind(path: str | os.PathLike[str]) -> str | None:
    """``file``, ``folder`` or ``other`` (a FIFO, a device, a socket); None if there is nothing. Follows links.

    Raises:
        OSError: it can't be known, as in a folder without permission; or no file can have this name.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        # A NUL, or text that the file system's encoding lacks.
        raise OSError(errno.EINVAL, "no file can have this name") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read it. Opening a FIFO would wait for a writer; this does not wait.

    Raises:
        OSError: it isn't there, can't be read, or isn't a regular file.
    """
    kind = file_kind(path)
    if kind not in ("file", None):
        raise OSError(errno.EINVAL, "it is a folder" if kind == "folder" else "it is not a regular file")
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def put_aside(path: Path) -> Path:
    """Rename a file or folder to the first free ``NAME.aside-1``, ``-2`` … next to it. Returns the new path.

    Raises:
        OSError: it can't be renamed.
    """
    number = 1
    # Renaming onto an empty folder would replace it.
    while os.path.lexists(aside := path.with_name(f"{path.name}{ASIDE}{number}")):
        number += 1
    path.rename(aside)
    return aside


class Staging:
    """Files written next to their targets, which replace the targets together once all of them are on disk.

    The end of the ``with`` block replaces the targets, in the order in which they were written. After an error, it
    removes the new files, and every target stays as it was.
    """

    def __init__(self) -> None:
        self._targets: dict[Path, Path] = {}

    @contextmanager
    def file(self, target: Path) -> Iterator[BinaryIO]:
        """Open a temporary file, in ``target``'s folder, that will become ``target``."""
        temporary = target.with_name(target.name + TEMPORARY)
        # Don't open a FIFO, which would wait for a reader, and don't follow a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(temporary, flags, 0o666)
        self._targets[temporary] = target
        with os.fdopen(descriptor, "w+b") as file:
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
            # The new names are on disk only when the folder itself is.
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
