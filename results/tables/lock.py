"""One writer to an output folder at a time."""

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
    """Holds ``folder``'s lock from construction until ``release``; the kernel lets go when the process dies.

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
            # Neither what a link leads to nor a FIFO, at which reading would wait.
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
        former = os.read(descriptor, 200)
        if former and not former.startswith(b"process "):
            raise OSError(errno.EEXIST, f"its {NAME} is not stratbench's")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file we locked is still the one in the folder: its last holder removes it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock file and let go of it, in this order: who opens it meanwhile will look again."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
