"""Text: UTF-8 bytes in arrays of one width, NumPy's type ``S``, as a model's lookup layers take it.

NumPy drops zero bytes at the end of each text.
"""

from typing import Any

import numpy as np

from ..base import TEXT


def is_text(dtype: np.dtype) -> bool:
    """Whether it is text in NumPy."""
    return dtype.kind in "SU"


def type_name(dtype: np.dtype) -> str:
    """NumPy's name in this machine's byte order, or that of text."""
    return TEXT if is_text(dtype) else dtype.newbyteorder("=").name


def encoded(array: np.ndarray) -> np.ndarray:
    """The text as UTF-8, of type ``S``. Raises UnicodeError or TypeError for an array that has anything else."""
    if array.dtype.kind == "S":
        return array
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    found = [_bytes(each) for each in array.flat]
    return np.array(found, f"S{max(map(len, found), default=1) or 1}").reshape(array.shape)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"text expected. Received: {type(value).__name__}")
