"""Text: UTF-8 bytes in arrays of one width, NumPy's type ``S``, as a model's lookup layers take it.

NumPy drops zero bytes at the end of each text.
"""

from typing import Any

import numpy as np


def is_text(dtype: np.dtype) -> bool:
    """Whether it is text: of NumPy, or of one of HDF5's two kinds of strings."""
    if dtype.kind in "SU":
        return True
    if dtype.kind != "O" or dtype.metadata is None:
        return False
    import h5py

    return h5py.check_string_dtype(dtype) is not None


def encoded(array: np.ndarray) -> np.ndarray:
    """The text as UTF-8, of type ``S``. Raises UnicodeError or TypeError for an array that has anything else."""
    if array.dtype.kind == "S":
        return array
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    found = [_bytes(each) for each in array.flat]
    return np.array(found, f"S{max(map(len, found), default=1) or 1}").reshape(array.shape)


def width(stored: Any, piece_rows: int) -> int:
    """Bytes of the longest text of an array of ``S``, or of an h5py dataset, which is read for that if they vary.

    Args:
        piece_rows: to be read at a time.
    """
    if stored.dtype.kind == "S":
        return stored.dtype.itemsize
    starts = range(0, len(stored), piece_rows)
    return max(encoded(stored[start : start + piece_rows]).dtype.itemsize for start in starts)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"text expected. Received: {type(value).__name__}")
