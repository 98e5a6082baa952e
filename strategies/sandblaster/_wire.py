"""Commands and answers: a few words as JSON, then arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._shared.messages import Messages

Words = Mapping[str, Any]


def tell(messages: Messages, to: int, words: Words, arrays: Sequence[np.ndarray] = ()) -> None:
    """Send ``words``, which JSON can hold, and arrays of any shapes and types."""
    # The name of bfloat16 is its own; that of a text's type leaves out how long it is.
    kinds = [(each.dtype.str if each.dtype.kind in "SU" else each.dtype.name, each.shape) for each in arrays]
    text = np.frombuffer(json.dumps([words, kinds]).encode(), np.uint8)
    messages.send(to, np.array([len(text)], np.uint32))
    messages.send(to, text)
    for each in arrays:
        messages.send(to, np.ascontiguousarray(each))


def hear(messages: Messages, source: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Receive what `tell` has sent. Raises RunError once the other process is gone."""
    length = np.empty(1, np.uint32)
    messages.receive(source, length)
    text = np.empty(int(length[0]), np.uint8)
    messages.receive(source, text)
    words, kinds = json.loads(text.tobytes())
    arrays = [np.empty(shape, np.dtype(name)) for name, shape in kinds]
    for each in arrays:
        messages.receive(source, each)
    return words, arrays
