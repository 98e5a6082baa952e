"""What this process has used of the machine, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_SOCKETS = Path("/proc/self/fd")
_TCP_INFO = 11
_BYTES_OFFSET = 120
_BYTES = struct.Struct("=QQ")
"""tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info, since 4.1."""


_loaded_before_fork = 0
"""Bytes of libraries' files that the fork server had in RAM when it forked this process; 0 after a fresh start."""


def note_loaded() -> None:
    """Called by the fork server after its imports: its children count what it has loaded of libraries' files.

    The kernel does not count it for them, as they find these pages when they use them.
    """
    global _loaded_before_fork
    _loaded_before_fork = _file_bytes()


def peak_rss_bytes() -> int:
    """The most memory that this process has had in RAM, as if it had loaded all libraries itself."""
    return _peak() + (max(0, _loaded_before_fork - _file_bytes()) if _loaded_before_fork else 0)


def _peak() -> int:
    """By the kernel's count for this program.

    Linux's ``ru_maxrss`` is no less than what the parent had when it started this process.
    """
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _file_bytes() -> int:
    """Of files that are mapped into this process's memory and in RAM."""
    return psutil.Process().memory_info().shared


def cpu_seconds() -> float:
    """CPU time of all threads of this process."""
    return time.process_time()


def involuntary_switches() -> int:
    """How often the kernel has taken a core from a thread of this process that would have gone on."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def totals() -> dict[str, float | None]:
    """All of it, as the journal's ``end`` has it: peak_rss_bytes, cpu_seconds, sent_bytes, received_bytes."""
    sent, received = tcp_bytes() or (None, None)
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "cpu_seconds": cpu_seconds(),
        "sent_bytes": sent,
        "received_bytes": received,
    }


def tcp_bytes() -> tuple[int, int] | None:
    """(sent, received) over all TCP connections that this process has open, whichever library made them.

    None where the kernel does not tell. What moves through shared memory, or between GPUs, is not in it.
    """
    if not _SOCKETS.exists():
        return None
    totals = [_connection_bytes(connection) for connection in _tcp_sockets()]
    return sum(sent for sent, _ in totals), sum(received for _, received in totals)


def _tcp_sockets() -> Iterator[socket.socket]:
    for link in list(_SOCKETS.iterdir()):
        # A descriptor may be closed by its owner at any moment: a duplicate can't be.
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as found:
                    if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                        yield found


def _connection_bytes(connection: socket.socket) -> tuple[int, int]:
    try:
        information = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_OFFSET + _BYTES.size)
    except OSError:
        return 0, 0
    if len(information) < _BYTES_OFFSET + _BYTES.size:
        return 0, 0
    sent, received = _BYTES.unpack_from(information, _BYTES_OFFSET)
    return sent, received
