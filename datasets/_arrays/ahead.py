"""Reads ahead: while one item is used, the next one is made in a thread."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterator[T]) -> Iterator[T]:
    """The same items; their errors are raised where the item would come. At most two items exist at a time.

    HDF5 and NumPy release Python's lock while they read, unpack and copy, so that a training step goes on meanwhile.
    """
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        following = pool.submit(next, source, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, source, None)
            yield item
