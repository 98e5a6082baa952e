"""Checks of the flags' values that click doesn't do and that would fail later."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ...errors import UsageError

MOST_PATH_BYTES = 3500
"""Of a folder's path: Linux allows 4096, and the names of a run's files are added to it."""
MOST_SHOWN = 1000
"""Characters of a message."""
USUAL_SHARE = 0.03
"""Of a rate, to which ``--repeats auto`` is to know it."""


@dataclasses.dataclass(frozen=True)
class Until:
    """Repeat until the 95 % interval of every rate is within ± ``share`` of it."""

    share: float


class Counts(click.ParamType):
    """``1,2,4`` → [1, 2, 4]."""

    name = "N[,N…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """The numbers of one flag, each once."""
        parts = value if isinstance(value, list) else str(value).split(",")
        try:
            return [int(part) for part in dict.fromkeys(parts)]
        except ValueError:
            self.fail(f"replicas must be whole numbers such as 1,2,4. Received: '{value}'.", param, ctx)


class Percent(click.ParamType):
    """``5%`` → 0.05."""

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A share greater than 0 and less than 1."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", value.strip(), re.ASCII)
        share = float(found[1]) / 100 if found else 0.0
        if not 0 < share < 1:
            self.fail(f"give a percentage between 0% and 100%, such as 5%. Received: '{value}'.", param, ctx)
        return share


class Amount(click.ParamType):
    """``25Gbit`` → 25e9: a number with one of some units.

    Args:
        units: in small letters → what the number is multiplied by; empty, if it may stand alone.
    """

    def __init__(self, name: str, units: Mapping[str, float]) -> None:
        self.name, self._units = name, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number greater than 0."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(\D*)", value.strip(), re.ASCII)
        factor = self._units.get(found[2].lower()) if found else None
        if not found or factor is None or not float(found[1]):
            units = ", ".join(filter(None, self._units))
            self.fail(f"give a number greater than 0 and a unit: {units}. Received: '{value}'.", param, ctx)
        return float(found[1]) * factor


class Repeats(click.ParamType):
    """``3``; ``2%`` → `Until` rates are known to ±2 %; ``auto`` → ±3 %."""

    name = "N|auto|PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Until:
        """The number, or how well rates are to be known."""
        if isinstance(value, int | Until):
            return value
        if value.strip() == "auto":
            return Until(USUAL_SHARE)
        if value.strip().endswith("%"):
            return Until(Percent().convert(value, param, ctx))
        try:
            return int(value)
        except ValueError:
            self.fail(f"give a whole number, auto, or a percentage such as 3%. Received: '{value}'.", param, ctx)


class Folder(click.ParamType):
    """A folder to write to: one that exists, or a new name."""

    name = "DIRECTORY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path of the folder. It is not created here."""
        if not value or len(os.fsencode(value)) > MOST_PATH_BYTES:
            self.fail(f"a folder's name must have from 1 to {MOST_PATH_BYTES} bytes. Received: '{value}'.", param, ctx)
        mode = file_mode(Path(value))
        if mode is not None and not stat.S_ISDIR(mode):
            self.fail(f"the path must be that of a folder. Received: '{value}', {kind(mode)}.", param, ctx)
        return Path(value)


def file_mode(path: Path) -> int | None:
    """The mode from `os.stat`; None if there is no such file. Raises UsageError for a path that can't be read."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"a path must be one that can be reached. Received: {path}: {error.strerror}.") from None


def kind(mode: int) -> str:
    """The kind of file, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def check_text(text: str) -> None:
    """Raise UsageError for a value that is not valid text and can't be stored in results."""
    if "\0" in text:
        raise UsageError(f"text must not hold the character NUL. Received: {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"text and file names must be UTF-8; if they are, set a UTF-8 locale, as with LC_ALL=C.UTF-8. "
            f"Received: {text!r}."
        ) from None


def check_texts(texts: Sequence[str]) -> None:
    """`check_text` for each."""
    for text in texts:
        check_text(text)


def one_line(message: str) -> str:
    """The message on one line, without control characters; if it is long, its middle is left out."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(text) <= MOST_SHOWN:
        return text
    half = MOST_SHOWN // 2
    return f"{text[:half]} […] {text[-half:]}"
