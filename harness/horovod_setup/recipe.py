"""How Horovod is built: the source, the settings, the tools, and fixes for failed builds."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from ...errors import StratbenchError
from ..plan import cores
from .changes import CHANGES, MARKS
from .logged_run import COMMAND_MARK

VERSION = "0.28.1"
SDIST = f"horovod-{VERSION}.tar.gz"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

RUNTIME_REQUIREMENTS = ("cloudpickle", "psutil", "pyyaml", "packaging")
BUILD_REQUIREMENTS = ("setuptools >= 70.1, < 81", "wheel", "packaging")

# Increased when the build changes in another way than by CHANGES: wheels of older builds are not taken from the cache.
_RECIPE = "2"
_BYTES_PER_COMPILER = 2 * 1024**3
_CMAKE_AT_LEAST = (3, 13)

# Pattern in the log → how to fix it. The first one that matches is shown.
_KNOWN_FAILURES = (
    (r"No space left on device", "the disk is full; free 2 GB, or point TMPDIR at another disk"),
    (r"Killed signal terminated|out of memory", "the compiler ran out of memory; free some and try again"),
    (
        r"Could NOT find MPI",
        "MPI can't be used; install it (Debian: apt-get install libopenmpi-dev) or set HOROVOD_WITHOUT_MPI=1",
    ),
    (r"Could NOT find NCCL", "NCCL's headers are missing; set HOROVOD_NCCL_HOME to NCCL's folder"),
    (r"Could NOT find CUDAToolkit", "CUDA's toolkit is missing; set HOROVOD_CUDA_HOME to its folder"),
    (r"externally-managed-environment", "this Python is the system's; use a venv (python3 -m venv)"),
    (
        r"cannot open shared object file|undefined symbol",
        "the build doesn't fit the packages that are installed now; remove the log's folder and try again",
    ),
    (r"DO NOT MATCH THE HASHES", "the download is not the file that was released; check the package index"),
    (
        r"No matching distribution found|Could not fetch URL|Failed to establish a new connection",
        "the package index can't be reached or doesn't have it; check the network",
    ),
)


def build_settings(environment: Mapping[str, str], tensorflow: str) -> dict[str, str]:
    """The ``HOROVOD_*`` variables for the build: those of the user, and defaults for the others."""
    given = {name: value for name, value in environment.items() if name.startswith("HOROVOD_")}
    mpi = shutil.which("mpicxx", path=environment.get("PATH")) is not None
    wanted = {"TENSORFLOW": True, "PYTORCH": False, "MXNET": False, "GLOO": True, "MPI": mpi}
    settings = {"HOROVOD_LOCAL_VERSION": ".".join([f"tf{tensorflow}", *MARKS])}
    for feature, with_it in wanted.items():
        if f"HOROVOD_WITH_{feature}" not in given and f"HOROVOD_WITHOUT_{feature}" not in given:
            settings[f"HOROVOD_{'WITH' if with_it else 'WITHOUT'}_{feature}"] = "1"
    return settings | given


def cache_key(tensorflow: str, settings: Mapping[str, str]) -> str:
    """The name of the folder for a wheel: it has everything that decides whether the wheel can be used."""
    machine = sysconfig.get_platform() + "-" + "".join(platform.libc_ver())
    recipe = "\n".join([_RECIPE, str(CHANGES), *(f"{name}={settings[name]}" for name in sorted(settings))])
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:10]
    return f"horovod-{VERSION}-tf{tensorflow}-{sys.implementation.cache_tag}-{machine}-{digest}"


def check_tools(environment: Mapping[str, str]) -> None:
    """Raise StratbenchError, before the build starts, if there is no compiler or no make."""
    path = environment.get("PATH")
    chosen = environment.get("CXX", "").split()[:1]
    if not any(shutil.which(name, path=path) for name in chosen or ("c++", "g++", "clang++")):
        missing = chosen[0] if chosen else "g++"
        raise StratbenchError(f"{missing} is missing; install a C++17 compiler (Debian: apt-get install g++)")
    if not any(shutil.which(name, path=path) for name in ("make", "gmake", "ninja")):
        raise StratbenchError("make is missing; install it (Debian: apt-get install make)")


def check_sdist(path: Path) -> None:
    """Raise StratbenchError unless the file is the released one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise StratbenchError(f"SHA-256 of {path.name} must be {SDIST_SHA256}. Received: {digest}; remove {path}")


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack into ``folder``. The archive can't write outside of it. Returns the source tree."""
    if not hasattr(tarfile, "data_filter"):
        raise StratbenchError(f"unpacking safely needs Python 3.11.4 or newer. Received: {platform.python_version()}")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / SDIST.removesuffix(".tar.gz")


def find_cmake(environment: Mapping[str, str]) -> str | None:
    """The CMake for the build: the user's ``HOROVOD_CMAKE``, or one on PATH that is new enough."""
    if environment.get("HOROVOD_CMAKE"):
        return environment["HOROVOD_CMAKE"]
    found = shutil.which("cmake", path=environment.get("PATH"))
    if found is None:
        return None
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", answer)
    return found if version and tuple(map(int, version.groups())) >= _CMAKE_AT_LEAST else None


def compilers_at_once() -> int:
    """One per core of this process, or fewer if memory is short: each compiler takes up to 2 GB."""
    return max(1, min(len(cores.usable()), psutil.virtual_memory().available // _BYTES_PER_COMPILER))


def explain(log: str) -> str:
    """Why the last command in a log failed, or how to fix it, in one line."""
    output = log.rpartition(COMMAND_MARK)[2]
    for pattern, fix in _KNOWN_FAILURES:
        if re.search(pattern, output):
            return fix
    errors = [line.strip(" .") for line in output.splitlines() if re.search(r"(?i)error(:| at )", line)]
    return errors[0][:160] if errors else "see its last lines"
