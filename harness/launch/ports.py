"""Free TCP ports without a race.

A port is bound here, without listening, until the run is over. TensorFlow's gRPC servers set SO_REUSEADDR, and so does
the reservation: Linux then lets the server listen on that port, and gives it to no other program.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from ...errors import RunError

MOST_PORT = 65535


class Ports:
    """Reservations of one run; leave the ``with`` block to give them back."""

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

    def address(self, wanted: int | None = None) -> str:
        """Reserve a port and return ``"127.0.0.1:port"``. Raises RunError when ``wanted`` is taken."""
        if wanted and wanted > MOST_PORT:
            raise RunError(
                f"ports go up to {MOST_PORT}, and the tasks need {wanted}; choose a lower one with -o port=…"
            )
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sockets.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind(("", wanted or 0))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used by this user"
            raise RunError(f"port {wanted} {why}; choose another with -o port=…, or 0 for free ones") from None
        return f"127.0.0.1:{reserved.getsockname()[1]}"
