"""The machine and the software that a run ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from . import cgroups

SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "NVIDIA_TF32_OVERRIDE",
    "CUDA_VISIBLE_DEVICES",
)
"""Environment variables that change how fast TensorFlow computes. None of them is a secret."""
_CORES = Path("/sys/devices/system/cpu")


def capture() -> dict[str, Any]:
    """Describe this machine and the installed software in the environment columns of the runs table.

    A text is empty if the thing is not there. Takes some milliseconds (about a second if there are GPUs), imports no
    framework, and reads no environment variables but `SETTINGS`. What only a task knows is empty.
    """
    cores, gpus = _cores_available(), _gpus()
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu_model": _cpu_model(),
        "cpu_governor": _governor(),
        "cores_available": cores,
        "cpu_limit_cores": min(cgroups.cpu_limit_cores() or cores, cores),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": cgroups.memory_limit_bytes(),
        "gpus": ", ".join(name for name, _ in gpus),
        "gpu_driver": ", ".join(dict.fromkeys(driver for _, driver in gpus)),
        "settings": " ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ),
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow") or _version("tensorflow-cpu"),
        "tensorflow_build": "",
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


def _governor() -> str:
    """How the kernel chooses the frequencies of the cores; each way once. Virtual machines have none."""
    found = []
    for path in sorted(_CORES.glob("cpu[0-9]*/cpufreq/scaling_governor")):
        with contextlib.suppress(OSError):
            found.append(path.read_text().strip())
    return ", ".join(dict.fromkeys(found))


def _gpus() -> list[tuple[str, str]]:
    """Name and driver's version of each."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    cells = [line.partition(", ") for line in answer.stdout.splitlines() if line.strip()]
    return [(name.strip(), driver.strip()) for name, _, driver in cells]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
