"""The machine and the software that a run ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ... import __version__


def capture() -> dict[str, Any]:
    """Describe this machine and the installed software in the environment columns of the runs table.

    A text is empty if the thing is not there. Takes some milliseconds (about a second if there are GPUs), imports no
    framework, and reads no environment variables.
    """
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu_model": _cpu_model(),
        "cores_available": _cores_available(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow") or _version("tensorflow-cpu"),
        "keras": _version("keras"),
        "horovod": _version("horovod"),
        "stratbench": __version__,
    }


def _cores_available() -> int:
    # The affinity mask shows what taskset, Slurm or a container's cpuset allow; macOS has none.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(answer.stdout.split("\n")).strip(", ")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
