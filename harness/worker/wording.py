"""Errors of TensorFlow, Keras and the user's own code in one line."""

from __future__ import annotations

import re

_NOISE = (
    *("Graph execution error", "Detected at node", "<stack traces unavailable>", "[[", "File "),
    "Exception encountered when calling",
)
"""How lines of TensorFlow's and Keras's messages begin that say nothing."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def one_line(error: BaseException) -> str:
    """The error's type, and the first line of its message that says something."""
    return f"{type(error).__name__}: {telling_line(str(error))}".rstrip(": ")


def telling_line(text: str) -> str:
    """The first line that says something, without the bold type of Keras's messages."""
    lines = [line.strip() for line in _STYLE.sub("", text).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_NOISE)), " ".join(lines[:1]))
