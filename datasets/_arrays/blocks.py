"""Groups rows by blocks, so that each block is read or generated once."""

from collections.abc import Iterator

import numpy as np


def by_block(rows: np.ndarray, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each block that has rows in ``rows``, ascending, with their positions in ``rows``, sorted by row.

    Block ``b`` is rows ``[b * block_rows, (b + 1) * block_rows)``.
    """
    order = np.argsort(rows, kind="stable")
    blocks, starts = np.unique(rows[order] // block_rows, return_index=True)
    ends = [*starts[1:], len(rows)]
    for block, start, end in zip(blocks, starts, ends, strict=False):
        yield int(block), order[start:end]
