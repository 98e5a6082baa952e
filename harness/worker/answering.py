"""The process that `stratbench.harness.launch.asking` starts: one answer, then it ends."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import StratbenchError
from ..launch.asking import ANSWER, QUESTION
from .main import no_collection, watch_parent


def answer(to: Callable[[str], Mapping[str, Any]]) -> None:
    """Write what ``to`` returns for the question, and end the process. Its StratbenchError is ``{"refused": text}``.

    Without an answer, the last line of the output says why.
    """
    folder = Path(sys.argv[1])
    # The folder is temporary, and the launcher would have removed it.
    watch_parent(lambda: shutil.rmtree(folder, ignore_errors=True))
    # Of TensorFlow's AutoGraph, for instance, whose files are removed at a usual end only.
    tempfile.tempdir = str(folder)
    # It is a small task, and the GPUs' memory may be in use.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with no_collection():
            import keras  # noqa: F401
        found = to((folder / QUESTION).read_text())
    except StratbenchError as error:
        found = {"refused": " ".join(str(error).split())}
    (folder / ANSWER).write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
