"""For tests of the command line: commands within this process, or in one of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from stratbench.harness.cli import commands as cli

WORK = ["--dataset", "synthetic", "--global-batch", "32"]


def call(*arguments: str) -> int:
    """The exit code of ``stratbench ARGUMENTS``, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stratbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def shell(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stratbench.harness.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **settings,
    )
