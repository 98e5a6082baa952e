"""Errors of TensorFlow, Keras and the user's own code in one line."""

from __future__ import annotations

import re

_NOISE = (
    *("Graph execution error", "Detected at node", "<stack traces unavailable>", "[[", "File "),
    "Exception encountered when calling",
)
"""How lines of TensorFlow's and Keras's messages begin that say nothing."""
_WITHOUT = re.compile(r"\x1b\[[0-9;]*m|\{\{(function_)?node [^}]*\}\} ?| \[Op:\w+\].*")
"""Bold type in Keras's messages, and names of TensorFlow's own in its."""


def one_line(error: BaseException) -> str:
    """The error's type, and the first line of its message that says something."""
    return f"{type(error).__name__}: {telling_line(str(error))}".rstrip(": ")


def telling_line(text: str) -> str:
    """The first line that says something."""
    lines = [line for each in text.splitlines() if (line := _WITHOUT.sub("", each).strip())]
    return next((line for line in lines if not line.startswith(_NOISE)), " ".join(lines[:1]))
