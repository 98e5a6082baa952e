"""Sizes and times in words."""

from __future__ import annotations


def size_words(size: int) -> str:
    """``1 KiB``, ``256 MiB``, ``1.5 MiB``."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


def seconds_words(seconds: float) -> str:
    """``123 µs``, ``4.56 ms``, ``7.89 s``."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"
