"""Where a run's tasks are started: on this machine, with TCP ports that no other program can take meanwhile.

A port is bound here, without listening, until the run is over. TensorFlow's gRPC servers set SO_REUSEADDR, and so does
the reservation: Linux then lets the server listen on that port, and gives it to no other program.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from ...errors import RunError
from ...strategies.base import THIS_HOST

MOST_PORT = 65535


class Ports:
    """The ports of one run, a `stratbench.strategies.base.Place`. Leave the ``with`` block to give them back."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Nothing is reserved yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all ports."""
        for reserved in self._sockets:
            reserved.close()
        self._sockets.clear()

    def host(self, replica: int) -> str:
        """This machine, for every replica."""
        return THIS_HOST

    def address(self, host: str, port: int | None = None) -> str:
        """Reserve a port of this machine, known as ``host``. Raises RunError when the port is taken."""
        if port and port > MOST_PORT:
            raise RunError(f"ports go up to {MOST_PORT}, and the tasks need {port}; choose a lower one with -o port=…")
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sockets.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind(("", port or 0))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used by this user"
            raise RunError(f"port {port} {why}; choose another with -o port=…, or 0 for free ones") from None
        return f"{host}:{reserved.getsockname()[1]}"


def is_here(host: str) -> bool:
    """Whether a host's name or address is one of this machine's."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
