"""The folder of one run, ``runs/<run id>`` in an output folder: stratbench's files and other files in it."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from ...errors import ResultsError
from . import checked
from .files import ASIDE, file_kind, put_aside, shown, why
from .journal import PROFILES
from .record import NAME, Record

UNREADABLE = "unreadable"
"""Instead of a status, for a run whose record can't be read: its folder must not be used again."""

# What launcher and tasks write there. Any other file belongs to the user.
_OURS = re.compile(
    r"spec\.json|record\.json(\.tmp)?|(epoch|step)-\d+(\.worker-\d+)?\.(npz|new)|[a-z]+-\d+\.(log|jsonl|lost)|(horovod|mpi)run\.log"
)
_FOLDERS = ("scratch", PROFILES)


def load(folder: Path) -> Record:
    """The record in a run's folder. It must be the record of the run with the folder's name.

    Raises:
        ResultsError: as in ``Record.load``; or it is the record of another run, as in a copied folder.
    """
    found = Record.load(folder / NAME)
    if found.run_id != folder.name:
        raise ResultsError(
            "A run's record must be in the folder of its name. "
            f"Received: {shown(folder / NAME)} of run {checked.short(found.run_id)}"
        )
    return found


def recorded(output: Path) -> list[Path]:
    """The run folders of an output folder that hold a record, in order, without those put aside.

    Raises:
        ResultsError: they can't be listed.
    """
    runs = output / "runs"
    try:
        if file_kind(runs) is None:
            return []
        found = [each for each in sorted(runs.iterdir()) if ASIDE not in each.name]
        return [each for each in found if os.path.lexists(each / NAME)]
    except OSError as error:
        raise ResultsError(
            f"An output folder's runs must be a readable folder. Received: {shown(runs)}: {why(error)}. "
            "Move it away or choose another --output."
        ) from error


def make_room(folder: Path) -> str:
    """Make ``folder`` an empty folder for a new attempt at its run, without losing results of an earlier attempt.

    Files are removed only if they are those of a failed attempt, whose record says so and is in the tables. Any other
    folder is put aside, by renaming it.

    Returns:
        One line for the user: what was put aside, where and why; empty if nothing was.

    Raises:
        OSError: the folder can't be made, emptied or renamed.
    """
    said = ""
    if os.path.lexists(folder):
        reason = _reason_to_keep(folder)
        if reason:
            aside = put_aside(folder)
            said = f"{shown(folder)} {reason}: put aside as {aside.name}"
        else:
            _empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return said


def _reason_to_keep(folder: Path) -> str:
    """Why a run's old folder must not be emptied; empty if it may be."""
    if folder.is_symlink() or not folder.is_dir():
        return "is not a run's folder"
    content = sorted(os.scandir(folder), key=lambda entry: entry.name)
    foreign = [entry.name for entry in content if not _is_ours(entry)]
    if foreign:
        return f"holds {shown(foreign[0])}, which is not stratbench's"
    if not os.path.lexists(folder / NAME):
        # A run that was killed, or that could not be recorded on a full disk: it may have been a long run.
        return "holds a run without a record" if {entry.name for entry in content} - {"spec.json"} else ""
    try:
        status = load(folder).run["status"]
    except ResultsError:
        return f"holds a {NAME} that can't be read"
    return "holds a run that is ok" if status == "ok" else ""


def _is_ours(entry: os.DirEntry[str]) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        return entry.name in _FOLDERS
    return stat.S_ISREG(mode) and _OURS.fullmatch(entry.name) is not None


def _empty(folder: Path) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()
