"""What the container, or the job, that this process is in may use at most: Linux's control groups, version 2 or 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60
"""Bytes. Version 1 writes a number about as large as this for none."""


def files(controller: str, name: str) -> Iterator[Path]:
    """The files of that name of this process's control group and of those above it, as far as they exist.

    Args:
        controller: that they belong to in version 1, where each has a tree of its own.

    Raises OSError where there are no control groups.
    """
    for line in _OWN.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controllers if controllers else _ROOT
        folder = root / path.lstrip("/")
        places = (each / name for each in (folder, *folder.parents) if each.is_relative_to(root))
        yield from (place for place in places if place.is_file())


def cpu_limit_cores() -> float | None:
    """CPU seconds a second that it may use; None without a limit."""
    try:
        limits = [path.read_text().split() for path in files("cpu", "cpu.max")]
        limits += [
            [path.read_text().strip(), path.with_name("cpu.cfs_period_us").read_text().strip()]
            for path in files("cpu", "cpu.cfs_quota_us")
        ]
        # Without a limit, version 2 says max, and version 1 says -1.
        return min((int(quota) / int(period) for quota, period in limits if quota.isdigit()), default=None)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def memory_limit_bytes() -> int | None:
    """Memory that it may use; None without a limit."""
    try:
        texts = [
            path.read_text().strip()
            for name in ("memory.max", "memory.limit_in_bytes")
            for path in files("memory", name)
        ]
    except OSError:
        return None
    return min((int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT), default=None)
