"""How the program prints and ends, with any kind of streams and any kind of error."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from .values import one_line

_WRITING = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG)
TRACEBACK_VARIABLE = "STRATBENCH_TRACEBACK"
"""If it is set, the traceback of an unexpected exception is printed before its line."""


def prepare_streams() -> None:
    """Make printing work with any character, with closed streams and with wrong sizes of the terminal."""
    # This takes the free file descriptor, so that a file opened later does not become the standard output.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Replace characters that the terminal doesn't have, such as × or –.
            stream.reconfigure(errors="replace")
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and not re.fullmatch("[1-9][0-9]{0,3}", os.environ[name]):
            del os.environ[name]


def drop_output() -> None:
    """Discard the rest of standard output. Otherwise writing it at the end of the program would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail_unforeseen(error: Exception) -> NoReturn:
    """End after an error of stratbench itself, or of the system: print it, and how to get its traceback."""
    # An error with a file name is about that file. Without one, it is about standard output.
    if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
        drop_output()
        fail(f"standard output must be writable. Received: {error.strerror}.", 1)
    if TRACEBACK_VARIABLE in os.environ:
        traceback.print_exc()
    fail(
        f"{type(error).__name__}: {error}. This is a bug in stratbench: please report it, with what "
        f"{TRACEBACK_VARIABLE}=1 prints",
        1,
    )


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    print(f"stratbench: {one_line(message)}", file=sys.stderr)
    sys.exit(code)
