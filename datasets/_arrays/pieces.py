"""Reads rows of an array piece by piece: a NumPy array, or an h5py dataset, whose chunks are decoded once."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .blocks import by_block
from .checks import row_bytes

_PIECE_BYTES = 2**20


def piece_rows(stored: Any) -> int:
    """Return how many rows to read at a time: whole chunks, about 1 MiB together."""
    chunks = getattr(stored, "chunks", None)
    chunk_rows = chunks[0] if chunks else 1
    return chunk_rows * max(1, _PIECE_BYTES // (chunk_rows * row_bytes(stored)))


def pieces(stored: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read ``rows`` piece by piece: yield positions in ``rows`` and the values of these rows."""
    for _, places in by_block(rows, piece_rows(stored)):
        # Gaps are read too: decoding a chunk once costs less than one read for each group of consecutive rows.
        first, last = rows[places[0]], rows[places[-1]]
        yield places, stored[first : last + 1][rows[places] - first]
