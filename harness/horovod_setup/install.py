"""Builds Horovod for the installed TensorFlow, and installs it: ``stratbench install-horovod``.

Wheels are kept in a cache: compiling takes minutes, and is done once for each TensorFlow, Python and setting.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import StratbenchError
from ...strategies.collectives._build import HorovodStatus, installed_tensorflow, status
from . import recipe
from .changes import change
from .logged_run import LoggedRun, ended_by_signal

__all__ = ["HorovodStatus", "default_cache", "install", "status"]


def install(log: Callable[[str], None], cache: Path | None = None) -> str:
    """Build the wheel for the installed TensorFlow or take it from the cache, install it, try to load it.

    Args:
        log: called with one line for each phase, and regularly while a phase runs; a build takes minutes.
        cache: folder for wheels and logs, by default `default_cache()`.

    Returns:
        The version installed, such as ``0.28.1+tf2.21.0.glooyield.wakes``.
    """
    cache = default_cache() if cache is None else cache.absolute()
    tensorflow = _tensorflow_with_pip()
    settings = recipe.build_settings(os.environ, tensorflow)
    folder = cache / recipe.cache_key(tensorflow, settings)
    wheel = find_wheel(folder)
    if wheel is None:
        recipe.check_tools(os.environ)
    try:
        with ended_by_signal(), tempfile.TemporaryDirectory(prefix="stratbench-horovod-") as scratch:
            job = _Job(LoggedRun(folder / ("build.log" if wheel is None else "install.log"), log))
            job.pip("installing what Horovod needs", "install", *recipe.RUNTIME_REQUIREMENTS)
            built = None if wheel else _build(job, Path(scratch), cache, settings)
            job.pip("installing the wheel", "install", "--no-deps", "--force-reinstall", str(wheel or built))
            job.run("checking that it loads", [sys.executable, "-P", "-c", "import horovod.tensorflow"])
            if built:  # stored only now: a wheel that doesn't load must not be used again
                _keep(built, folder)
    except OSError as error:
        raise StratbenchError(
            f"building needs to write to {cache} and the temporary folder. Received: {error}"
        ) from None
    return _checked_version()


def default_cache() -> Path:
    """The default folder for wheels: ``~/.cache/stratbench``, or in ``XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: relative paths must be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "stratbench"


def find_wheel(folder: Path) -> Path | None:
    """The wheel of an earlier build in this folder; None if there is none or it is damaged."""
    return next((path for path in sorted(folder.glob("horovod-*.whl")) if zipfile.is_zipfile(path)), None)


def _tensorflow_with_pip() -> str:
    """The version of TensorFlow installed here; raises if it or pip is missing."""
    tensorflow = installed_tensorflow()
    if tensorflow is None:
        raise StratbenchError(
            "Horovod is built for the TensorFlow that is installed. Received: an environment without it; "
            "run: pip install 'tensorflow>=2.21'"
        )
    if importlib.util.find_spec("pip") is None:
        raise StratbenchError("pip must be installed. Received: none; run: python -m ensurepip")
    return tensorflow


def _checked_version() -> str:
    importlib.invalidate_caches()
    build = status()
    if build.problem or build.version is None:
        raise StratbenchError(f"the Horovod just installed must be usable. Received: {build.problem}")
    return build.version


class _Job:
    """The commands of one installation: one log file, one environment, an error that says what to do."""

    def __init__(self, run: LoggedRun) -> None:
        self.logged = run
        # Inside `make setup`, MAKEFLAGS and similar variables belong to that make: its -s, its jobserver.
        # HOROVOD_* are set only for compiling: with HOROVOD_LOCAL_VERSION, pip refuses the source.
        unfit = ("HOROVOD_", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(unfit)}
        self.env["PIP_ROOT_USER_ACTION"] = "ignore"

    def run(self, phase: str, command: list[str]) -> None:
        """Run a command. If it fails, raise StratbenchError with the reason and the name of the log."""
        code = self.logged(phase, command, self.env)
        if code:
            reason = recipe.explain(self.logged.path.read_text("utf-8", "replace"))
            raise StratbenchError(f"{phase} failed with exit code {code}: {reason}. Log: {self.logged.path}")

    def pip(self, phase: str, *arguments: str) -> None:
        """Run this environment's pip; ``-P``: no modules are imported from the current folder."""
        options = ["--no-input", "--disable-pip-version-check"]
        self.run(phase, [sys.executable, "-P", "-m", "pip", *options, *arguments])


def _build(job: _Job, scratch: Path, cache: Path, settings: Mapping[str, str]) -> Path:
    job.pip("installing build requirements", "install", *recipe.BUILD_REQUIREMENTS)
    tree = recipe.unpack(_fetch(job, scratch, cache), scratch)
    change(tree)
    job.env.update(settings)
    if recipe.find_cmake(job.env) is None:
        job.pip("installing cmake", "install", "cmake >= 3.13")
        job.env["HOROVOD_CMAKE"] = str(Path(sysconfig.get_path("scripts")) / "cmake")
    # Horovod's Gloo requires a CMake older than 3.5. CMake 4 accepts this only with this variable.
    job.env.setdefault("CMAKE_POLICY_VERSION_MINIMUM", "3.5")
    count = recipe.compilers_at_once()
    job.env["MAKEFLAGS"] = f"-j{count}"
    job.logged.say(f"compiling takes about 6 minutes divided by {count}, the cores used")
    options = ["-v", "--no-build-isolation", "--no-deps", "--wheel-dir", str(scratch)]
    job.pip("compiling", "wheel", *options, str(tree))
    wheel = find_wheel(scratch)
    if wheel is None:
        raise StratbenchError(f"compiling must give a wheel. Received: none. Log: {job.logged.path}")
    return wheel


def _fetch(job: _Job, scratch: Path, cache: Path) -> Path:
    """The released source, from the cache or the package index."""
    kept = cache / recipe.SDIST
    if not kept.exists():
        # pip runs the source's setup.py to read its name. With the hash here, it checks the source first.
        wanted = scratch / "source.txt"
        wanted.write_text(f"horovod=={recipe.VERSION} --hash=sha256:{recipe.SDIST_SHA256}\n")
        options = ["--no-deps", "--no-binary", "horovod", "--no-build-isolation", "--dest", str(scratch)]
        job.pip("downloading the source", "download", *options, "--requirement", str(wanted))
        recipe.check_sdist(scratch / recipe.SDIST)
        _keep(scratch / recipe.SDIST, cache)
    recipe.check_sdist(kept)
    return kept


def _keep(file: Path, folder: Path) -> Path:
    """Copy a file into the folder. The file gets its name only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".part-{os.getpid()}"
    try:
        shutil.copyfile(file, part)
        return part.replace(folder / file.name)
    finally:
        part.unlink(missing_ok=True)
