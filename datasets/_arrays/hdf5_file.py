"""Reads an HDF5 file that may be damaged, or another kind of file. Only this one regular file is opened."""

import math
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import StratbenchError
from .checks import UnfitError

# All exceptions that h5py raises for invalid bytes in a file.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, SystemError)
_SMALLEST_CHUNK = 4  # a checksum alone has so many bytes
_MAX_LINKS = 32
_MAX_NAMES = 20
_MAX_LEVELS = 4
_MAX_MEMBERS = 1000
_MAX_VISITS = 10_000


@contextmanager
def opened(path: str, failure: type[StratbenchError]) -> Iterator[Any]:
    """Open the file for reading, without a lock, and yield it. Errors in HDF5 are raised as ``failure``."""
    import h5py

    try:
        place = Path(path).expanduser()
        # Opening a FIFO would wait for a writer.
        if not stat.S_ISREG(place.stat().st_mode):
            raise failure(f"data set file must be a regular file. Received: {path!r}")
        with h5py.File(place, "r", locking=False) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise failure(f"data set file must be an existing file. Received: {path!r}") from error
    except DAMAGE as error:
        raise failure(f"data set file must be readable HDF5. Received: {path!r} ({_reason(error)})") from error


def find(file: Any, name: str, levels: int = _MAX_LEVELS) -> Any:
    """Return the h5py dataset with this name, or a dictionary of those in the group with this name.

    Raises UnfitError if there is none, or if it is in another file.
    """
    import h5py

    here = _member(file, name)
    if isinstance(here, h5py.Dataset):
        return here
    if not isinstance(here, h5py.Group):
        raise _not_found(file, name, ", a named type")
    keys = sorted(here)
    if not keys or len(keys) > _MAX_MEMBERS or not levels:
        received = f"{len(keys)} members" if levels else f"a group in {_MAX_LEVELS} others"
        raise UnfitError(f"a group of 1..{_MAX_MEMBERS} datasets", f"{name!r}, {received}")
    return {key: find(file, f"{name}/{key}", levels - 1) for key in keys}


def _member(file: Any, name: str) -> Any:
    """Whatever has this name in the file, soft links followed."""
    import h5py

    here, parts, links = file["/"], deque(name.split("/")), 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise UnfitError("in the file itself", f"{name!r}, a link to {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            links += 1
            target = link.path if links <= _MAX_LINKS and isinstance(link.path, str) else ""
            if not target:
                raise _not_found(file, name, ", a link that leads nowhere")
            here = file["/"] if target.startswith("/") else here
            parts.extendleft(reversed(target.split("/")))
        elif link is None:
            raise _not_found(file, name, ", a link that leads nowhere" if links else "")
        else:
            here = here[part]
    return here


def check_chunks(stored: Any, file_bytes: int) -> None:
    """Raise OSError for an impossible index of filtered chunks: on it, a filter of HDF5 may crash the process."""

    def check(chunk: Any) -> None:
        if chunk.size < _SMALLEST_CHUNK or chunk.byte_offset + chunk.size > file_bytes:
            raise OSError(f"a chunk of {stored.name} of {chunk.size} bytes at byte {chunk.byte_offset}")

    if stored.chunks and stored.id.get_create_plist().get_nfilters():
        stored.id.chunk_iter(check)
        if stored.dtype.kind == "S":
            _check_text(stored)


def _check_text(stored: Any) -> None:
    """Raise OSError if chunks don't hold text of the length that the type says: HDF5 would read beyond them.

    Raises UnfitError for other filters than gzip's, by which a chunk's size is not known.
    """
    from h5py import h5z

    filters = stored.id.get_create_plist()
    kinds = {filters.get_filter(place)[0] for place in range(filters.get_nfilters())}
    if not kinds <= {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE}:
        raise UnfitError("text that is not compressed, or by gzip", "another filter")
    if not stored.id.get_num_chunks():
        return
    mask, raw = stored.id.read_direct_chunk(stored.id.get_chunk_info(0).chunk_offset)
    packed = h5z.FILTER_DEFLATE in kinds and not mask
    expected = math.prod(stored.chunks) * stored.dtype.itemsize
    # One byte more tells that there are more, without unpacking all that a damaged size may stand for.
    try:
        size = len(zlib.decompressobj().decompress(raw, expected + 1)) if packed else len(raw)
    except zlib.error as error:
        raise OSError(f"a chunk of {stored.name}: {error}") from None
    if size != expected:
        raise OSError(f"chunks of {stored.name} of {size} bytes where its type needs {expected}")


def _not_found(file: Any, name: str, what: str) -> UnfitError:
    names = _names(file)
    more = ", and more" if len(names) > _MAX_NAMES else ""
    listed = ", ".join(names[:_MAX_NAMES]) or "it has none"
    return UnfitError(f"one of the datasets in {file.filename}: {listed}{more}", f"{name!r}{what}")


def _names(file: Any) -> list[str]:
    """Names of the datasets in the file, if they can be read: a few more than are shown."""
    import h5py

    found: list[str] = []
    visits = 0

    def note(name: str | bytes) -> bool | None:
        nonlocal visits
        visits += 1
        with suppress(*DAMAGE):
            if file.get(name, getclass=True) is h5py.Dataset:
                found.append(_printable(name))
        return True if len(found) > _MAX_NAMES or visits > _MAX_VISITS else None

    with suppress(*DAMAGE):
        file.visit(note)
    return found


def _printable(text: str | bytes) -> str:
    """The text on one line, with control characters escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _reason(error: BaseException) -> str:
    # The text of a KeyError is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return _printable(" ".join(text.split()))[:300] or type(error).__name__
