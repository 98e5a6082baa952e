"""Errors of TensorFlow, Keras and the user's own code in one line."""

from __future__ import annotations

import re

_NOISE = (
    *("Graph execution error", "Detected at node", "<stack traces unavailable>", "[[", "File "),
    "Exception encountered when calling",
)
"""How lines of TensorFlow's and Keras's messages begin that say nothing."""
_WITHOUT = re.compile(
    r"\x1b\[[0-9;]*m|\{\{(function_)?node [^}]*\}\} ?| \[Op:\w+\].*|^\d+ root error\(s\) found\.$|^\s*\(\d+\) "
)
"""Bold type in Keras's messages, and names of TensorFlow's own in its."""
_OUT_OF_MEMORY = re.compile(r"OOM when allocating tensor with shape(?P<shape>\[[^]]*\]).*?device:(?P<device>\w+:\d+)")


def one_line(error: BaseException) -> str:
    """The error's type, and the first line of its message that says something."""
    return f"{type(error).__name__}: {telling_line(str(error))}".rstrip(": ")


def out_of_memory(error: BaseException, batch: int) -> str | None:
    """One line on a tensor for which there was no memory; None for other errors.

    Args:
        batch: of one replica, in examples.
    """
    found = _OUT_OF_MEMORY.search(str(error)) if type(error).__name__ == "ResourceExhaustedError" else None
    return found and (
        f"memory ran out on {found['device']} with {batch} examples a replica, for a tensor of shape {found['shape']}; "
        "use a smaller batch, or more replicas of the same global batch"
    )


def telling_line(text: str) -> str:
    """The first line that says something."""
    lines = [line for each in text.splitlines() if (line := _WITHOUT.sub("", each).strip())]
    return next((line for line in lines if not line.startswith(_NOISE)), " ".join(lines[:1]))
