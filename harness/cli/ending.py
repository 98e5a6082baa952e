"""How the program speaks and ends, whatever its streams are and whatever went wrong."""

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
"""Set, an unforeseen exception's traceback is printed before its line."""


def prepare_streams() -> None:
    """So that printing fails for no letter, no stream that the user closed, and no odd size of a terminal."""
    # A number first that is free, so that no file that is opened later becomes the standard output.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without × or – is no reason to end.
            stream.reconfigure(errors="replace")
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and not re.fullmatch("[1-9][0-9]{0,3}", os.environ[name]):
            del os.environ[name]


def drop_output() -> None:
    """What is still to be written to standard output goes nowhere; else the end of the program would fail by it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail_unforeseen(error: Exception) -> NoReturn:
    """A mistake of stratbench's own, or the system's: what it is, and how to learn more."""
    # Whoever writes a file names it in the error.
    if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
        drop_output()
        fail(f"standard output must be writable. Received: {error.strerror}.", 1)
    if TRACEBACK_VARIABLE in os.environ:
        traceback.print_exc()
    fail(
        f"{type(error).__name__}: {error}. This is a mistake of stratbench's own: please report it, with what "
        f"{TRACEBACK_VARIABLE}=1 prints",
        1,
    )


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    print(f"stratbench: {one_line(message)}", file=sys.stderr)
    sys.exit(code)
