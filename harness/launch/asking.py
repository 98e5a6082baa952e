"""Asks a process of its own something that needs TensorFlow, Keras or the user's code, which the command line lacks."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...strategies.base import Task
from ..plan import variables
from .processes import end_all
from .starter import BACKEND_VARIABLE, Starter, common_environment

QUESTION, ANSWER, PROGRESS = "question.json", "answer.json", "progress.txt"
"""Files of the folder that is the process's argument. The last one is there while there is something to tell."""
_POLL_SECONDS = 0.5


def ask(
    module: str,
    question: str,
    folder: Path,
    starter: Starter,
    timeout: float,
    what: str,
    show: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """The answer of the process.

    Args:
        module: what it runs.
        question: JSON, which it finds in `QUESTION`.
        folder: an empty one, for this question alone.
        timeout: in seconds, without progress.
        what: that it does, as in "model X can't be tried", for the reason if there is no answer.
        show: told what the process tells while it works.

    Returns:
        ``{"refused": reason}`` if there is none.
    """
    (folder / QUESTION).write_text(question)
    log = folder / "output.log"
    # TensorFlow's, whatever backend the user's environment asks for.
    env = variables.for_task(os.environ) | {BACKEND_VARIABLE: "tensorflow"} | common_environment()
    process = starter.start(Task(), folder, env, log, threading.Event(), module)
    assert process is not None
    try:
        _wait(process, folder / PROGRESS, timeout, show)
    except subprocess.TimeoutExpired:
        return {"refused": f"{what}: it took more than {timeout:g} s (--timeout)."}
    finally:
        end_all([process], [])
    if (folder / ANSWER).exists():
        return json.loads((folder / ANSWER).read_text())
    last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    return {"refused": f"{what}: {last}"}


def _wait(process: Any, told: Path, timeout: float, show: Callable[[str], None]) -> None:
    """Until the process ends. Raises subprocess.TimeoutExpired if it has told nothing new for so many seconds."""
    words, since = "", time.monotonic()
    while True:
        try:
            process.wait(min(_POLL_SECONDS, timeout))
            return
        except subprocess.TimeoutExpired:
            new = told.read_text() if told.exists() else ""
            if new and new != words:
                words, since = new, time.monotonic()
                show(words)
            elif time.monotonic() - since >= timeout:
                raise
