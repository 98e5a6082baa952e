"""Which Horovod is installed here, and what it was built for, read from its files.

Neither TensorFlow nor Horovod is imported: the launcher and the command line ask this, and must stay light.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

INSTALL_COMMAND = "stratbench install-horovod"

# Horovod keeps no record of its build that can be read without loading it, but the C++ names of classes
# that only exist when a feature was compiled in stay in its library.
_CONTROLLER_CLASSES = {
    "gloo": b"N7horovod6common14GlooControllerE",
    "mpi": b"N7horovod6common13MPIControllerE",
}
_NCCL_CLASS = b"N7horovod6common13NCCLAllreduceE"
# Only builds of stratbench have this function.
_WAKING = b"11TensorQueue13WaitForTensor"


@dataclass(frozen=True)
class HorovodStatus:
    """Horovod as installed in this environment.

    Attributes:
        version: for example ``0.28.1+tf2.21.0``; None if it is not installed.
        built_for_tensorflow: the version whose headers it was compiled with.
        controllers: ``gloo``, ``mpi``: what can coordinate its processes and reduce on CPUs.
        nccl: whether it reduces on NVIDIA GPUs by NCCL.
        wakes: whether, with Gloo, a tensor wakes its background thread, as in builds of stratbench.
        problem: why it can't be used, in one sentence that ends in the command that fixes it; None if it can.
    """

    installed: bool
    version: str | None = None
    built_for_tensorflow: str | None = None
    controllers: tuple[str, ...] = ()
    nccl: bool = False
    wakes: bool = False
    problem: str | None = None


def status(search: Sequence[str] | None = None) -> HorovodStatus:
    """Look for Horovod in the folders of ``search``, by default ``sys.path``."""
    found = _distribution("horovod", search)
    if found is None:
        return HorovodStatus(False, problem=f"Horovod is not installed; run: {INSTALL_COMMAND}")
    library = _library(found)
    build = HorovodStatus(
        installed=True,
        version=found.version,
        built_for_tensorflow=_built_for(found),
        controllers=_controllers(library) if library else (),
        nccl=library is not None and _contains(library, _NCCL_CLASS),
        wakes=library is not None and _contains(library, _WAKING),
    )
    reason = _problem(build, installed_tensorflow(search))
    return replace(build, problem=f"{reason}; run: {INSTALL_COMMAND}" if reason else None)


def installed_tensorflow(search: Sequence[str] | None = None) -> str | None:
    """TensorFlow's version as installed, without importing it; None if there is none."""
    found = _distribution("tensorflow", search)
    return found.version if found else None


def _problem(build: HorovodStatus, tensorflow: str | None) -> str | None:
    name = f"Horovod {build.version}"
    if build.built_for_tensorflow is None or not build.controllers:
        return f"{name} was built without TensorFlow, or without Gloo and MPI"
    if tensorflow is None:
        return f"{name} needs TensorFlow, which is not installed"
    # CMake writes 2.22.0-rc1 where the metadata has 2.22.0rc1.
    if build.built_for_tensorflow.replace("-", "") != tensorflow:
        return f"{name} was built for TensorFlow {build.built_for_tensorflow}, and {tensorflow} is installed"
    return None


def _distribution(name: str, search: Sequence[str] | None) -> metadata.Distribution | None:
    path = sys.path if search is None else list(search)
    return next(iter(metadata.distributions(name=name, path=path)), None)


def _built_for(horovod: metadata.Distribution) -> str | None:
    try:
        content = json.loads(Path(str(horovod.locate_file("horovod/metadata.json"))).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    version = content.get("tensorflow") if isinstance(content, dict) else None
    return str(version) if version else None


def _library(horovod: metadata.Distribution) -> Path | None:
    folder = Path(str(horovod.locate_file("horovod/tensorflow")))
    return next((path for path in sorted(folder.glob("mpi_lib*.so")) if path.stat().st_size), None)


def _controllers(library: Path) -> tuple[str, ...]:
    return tuple(name for name, symbol in _CONTROLLER_CLASSES.items() if _contains(library, symbol))


def _contains(library: Path, symbol: bytes) -> bool:
    return _search(library, library.stat().st_mtime_ns, symbol)


@cache  # 50 MB of library, and every strategy's `skip` asks
def _search(library: Path, changed: int, symbol: bytes) -> bool:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(symbol) >= 0
