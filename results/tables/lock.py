"""Only one process at a time writes to an output folder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import stat
from pathlib import Path

from ...errors import ResultsError
from ..raw.files import shown, why

NAME = ".lock"


class FolderLock:
    """Holds the lock of ``folder`` from construction until ``release``. The kernel releases it if the process dies.

    Raises:
        ResultsError: another process holds it, or the folder can't be written or locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        try:
            self._descriptor = self._acquire()
        except OSError as error:
            advice = "Free some space" if error.errno == errno.ENOSPC else "Choose another --output"
            raise ResultsError(
                f"The output folder must be writable, on a file system with locks. Received: {shown(self._path)}: "
                f"{why(error)}. {advice}."
            ) from error

    def _acquire(self) -> int:
        while True:
            # Don't follow a link, and don't open a FIFO, where reading would wait.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o644)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, f"{NAME} is not a regular file")
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    self._sign(descriptor)
                    return descriptor
            except BlockingIOError as error:
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise ResultsError(
                    "One command at a time may write to an output folder. "
                    f"Received: {shown(self._path.parent)}, in use by {' '.join(holder.split())}"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _sign(self, descriptor: int) -> None:
        old = os.read(descriptor, 200)
        if old and not old.startswith(b"process "):
            raise OSError(errno.EEXIST, f"its {NAME} is not stratbench's")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one in the folder: the last process that held the lock removes it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock file, then release it: a process that opens it in between will try again."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
