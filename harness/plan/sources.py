"""What a user's model is made from: so that an edited one is another model, under the same name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .models import own

_MOST_FILES = 2000
_MOST_BYTES = 64 * 2**20
DIGITS = 12
_GIT_SECONDS = 5.0


def digest(reference: str) -> str:
    """Hexadecimal digits from the SHA-256 of the source: of the module's file, or of all of its package's.

    Empty for stratbench's own models, for installed packages, which have versions, and if there is no source.
    """
    if own(reference) is not None:
        return ""
    found = hashlib.sha256()
    size = 0
    try:
        for number, path in enumerate(_files(reference.partition(":")[0])):
            content = path.read_bytes()
            size += len(content)
            if number == _MOST_FILES or size > _MOST_BYTES:
                break
            found.update(f"{path.name} {len(content)}\n".encode(errors="replace") + content)
    except OSError:
        # As with a name that is too long. The import says what is wrong.
        return ""
    return found.hexdigest()[:DIGITS] if size else ""


def commit(reference: str) -> str:
    """The last commit of git that changed the model's source, with ``+`` if it was changed since.

    Empty for what has no `digest`, where no repository holds it, and without git.
    """
    files = [] if own(reference) is not None else list(islice(_files(reference.partition(":")[0]), _MOST_FILES))
    if not files:
        return ""

    def git(*arguments: str) -> str | None:
        # Nothing that a repository's settings name is run.
        settings = ["-C", str(files[0].parent), "-c", "core.fsmonitor=false", "--no-optional-locks"]
        command = ["git", *settings, *arguments, "--", *map(str, files)]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return None

    head = git("log", "-1", "--format=%H")
    changed = git("status", "--porcelain")
    return head.strip() + ("+" if changed else "") if head else ""


def _files(module: str) -> Iterator[Path]:
    """The source files, found as the import does it, but without importing anything."""
    top = module.partition(".")[0]
    if not top.isidentifier():
        return
    for folder in (Path.cwd(), *map(Path, sys.path)):
        if "site-packages" in folder.parts:
            continue
        package, file = folder / top, folder / f"{top}.py"
        if (package / "__init__.py").is_file() or (package.is_dir() and "." in module):
            yield from sorted(package.rglob("*.py"))
            return
        if file.is_file():
            yield file
            return
