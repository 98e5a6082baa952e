"""Calls a user's data function, and keeps its examples: ``python -P -m stratbench.harness.worker.prepare FOLDER``.

The answer is ``{"file": name in the folder, "examples": number}``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...datasets.function import UnfitError, check, keep
from ...errors import UsageError
from . import examples, importing
from .answering import answer
from .wording import one_line


def main() -> None:
    """Answer the launcher's question."""
    answer(lambda question: prepare(**json.loads(question)))


def prepare(function: str, folder: str) -> dict[str, Any]:
    """Raises UsageError, in one line, for a function that can't be used."""
    what = f"data set {function}"
    call = importing.function(function, "data set")
    try:
        returned = call()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} failed when called without arguments: {one_line(error)}") from error
    try:
        sets = examples.sets(returned)
        check(sets)
    except UnfitError as error:
        raise UsageError(f"{what}: {error.rule}. Received: {error.received}.") from error
    except Exception as error:
        raise UsageError(f"{what} failed while its examples were read: {one_line(error)}") from error
    return {"file": keep(Path(folder), sets).name, "examples": sum(examples.count(each) for each in sets.values())}


if __name__ == "__main__":
    main()
