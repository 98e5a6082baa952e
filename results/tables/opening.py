"""Opening a results file, which may be damaged, newer, in use, another program's, or not a file.

``results.h5`` begins with HDF5's user block, which holds the digest of the rest. So a changed byte is found before HDF5
reads it as a number. Older files have no user block, and are read without this check.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from ...errors import NewerResultsError, ResultsError
from ..raw.files import open_regular, shown, why
from ..schema import SCHEMA_VERSION

USER_BLOCK_BYTES = 512
"""The smallest size that HDF5 allows."""
_SEAL = b"stratbench results, sha256 of what follows this block: "
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Check that it is a results file and not newer than this program, and open it.

    Errors in the ``with`` block are not changed: put code that reads the file's content inside ``guard`` too.

    Raises:
        ResultsError: it is missing, isn't HDF5, isn't stratbench's, is damaged, or is open for writing.
        NewerResultsError: a newer stratbench wrote it.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open_regular(path))
        except OSError as error:
            raise ResultsError(
                f"A results file must be a readable file. Received: {shown(path)}: {why(error)}"
            ) from error
        with guard(path):
            _check_seal(raw)
            # With a Python file, HDF5 needs no locks, which NFS refuses, and a notebook may have the file open.
            file = stack.enter_context(h5py.File(raw, "r"))
            _check_version(file, path)
        yield file


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Turn any error of h5py while it reads ``path`` into a message for the user.

    Raises:
        ResultsError: any error in the block; stratbench's own errors are not changed.
    """
    try:
        yield
    except ResultsError:
        raise
    except MemoryError as error:
        raise ResultsError(
            f"A results file must fit into memory. Received: {shown(path)}, which is too large, or damaged."
        ) from error
    except Exception as error:
        if _is_being_written(path):
            raise ResultsError(
                f"A results file must not be open for writing elsewhere. Received: {shown(path)}, which another "
                "program or notebook has open for writing; close it there."
            ) from error
        raise ResultsError(
            f"A results file must be whole HDF5, as stratbench wrote it. Received: {shown(path)}, which is "
            "truncated, damaged, changed or something else. Move it away: the next command with this --output "
            "rebuilds it from runs/*/record.json."
        ) from error


def _is_being_written(path: Path) -> bool:
    """Whether a program holds HDF5's lock for writing."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def seal(image: io.BytesIO) -> None:
    """Write the digest of a file into its user block of ``USER_BLOCK_BYTES``."""
    content = image.getbuffer()
    line = _SEAL + hashlib.sha256(content[USER_BLOCK_BYTES:]).hexdigest().encode() + b"\n"
    content[:USER_BLOCK_BYTES] = line.ljust(USER_BLOCK_BYTES, b"\0")


def _check_seal(raw: io.BufferedReader) -> None:
    """Raise ValueError unless the digest fits, or the file has no user block."""
    block = raw.read(USER_BLOCK_BYTES)
    if not block.startswith(_SIGNATURE):
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
        if block != (_SEAL + digest.encode() + b"\n").ljust(USER_BLOCK_BYTES, b"\0"):
            raise ValueError("the digest does not fit")
    raw.seek(0)


def _check_version(file: h5py.File, path: Path) -> None:
    if "schema_version" not in file.attrs:
        raise ResultsError(
            f"A results file must be written by stratbench. Received: {shown(path)}, which has no schema_version. "
            "Choose another --output."
        )
    version = file.attrs["schema_version"]
    if not isinstance(version, np.integer):
        raise ValueError("schema_version is not a whole number")
    if version > SCHEMA_VERSION:
        raise NewerResultsError(
            f"{shown(path)} has schema {version}; this stratbench reads up to {SCHEMA_VERSION}. "
            "Upgrade stratbench or choose another --output"
        )
