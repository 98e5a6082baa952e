"""What tells a file from another one that had the same name before."""

import hashlib
from pathlib import Path

_MOST_BYTES = 64 * 2**20
_DIGITS = 12


def fingerprint(path: str) -> str:
    """Hexadecimal digits from the SHA-256 of the content; of size and time of change for more than 64 MiB.

    Empty if the file can't be read: whoever reads the data says why.
    """
    try:
        place = Path(path).expanduser()
        if not place.is_file():
            return ""
        status = place.stat()
        if status.st_size > _MOST_BYTES:
            return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:_DIGITS]
        return hashlib.sha256(place.read_bytes()).hexdigest()[:_DIGITS]
    except (OSError, ValueError, RuntimeError):
        return ""
