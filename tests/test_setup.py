"""The set-up: the Makefile, and what builds Horovod. Nothing here compiles or asks the network."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from stratbench.errors import StratbenchError
from stratbench.harness.horovod_setup import changes, recipe
from stratbench.harness.horovod_setup import install as install_horovod
from stratbench.harness.horovod_setup.logged_run import LoggedRun, ended_by_signal
from stratbench.strategies.collectives import _build as _horovod_build

CHECKOUT = Path(__file__).parents[1]
GLOO = b"..N7horovod6common14GlooControllerE.."
MPI = b"..N7horovod6common13MPIControllerE.."


def released(tree: Path) -> None:
    """What is changed of the released source, and as little of it else."""
    for file, old, _ in changes.CHANGES:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        with (tree / file).open("a") as source:
            source.write(old)


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def horovod(folder: Path, tensorflow: str = "2.21.0", library: bytes = GLOO) -> None:
    distribution(folder, "horovod", "0.28.1+tf2.21.0")
    (folder / "horovod" / "tensorflow").mkdir(parents=True)
    # As CMake writes it, the line that only closes the list included.
    (folder / "horovod" / "metadata.json").write_text(f'{{\n"tensorflow": "{tensorflow}",\n"dummy": "none"\n}}')
    (folder / "horovod" / "tensorflow" / "mpi_lib.so").write_bytes(library)


class TestRecipe:
    def test_changes_what_is_there_once(self, tmp_path):
        released(tmp_path)
        changes.change(tmp_path)
        for file in {each.file for each in changes.CHANGES}:
            text = (tmp_path / file).read_text()
            assert all(each.new in text for each in changes.CHANGES if each.file == file)
        assert "xla" not in (tmp_path / "horovod/tensorflow/CMakeLists.txt").read_text()

    @pytest.mark.parametrize("times", [0, 2])
    @pytest.mark.parametrize("which", range(len(changes.CHANGES)))
    def test_another_source_is_refused(self, tmp_path, which, times):
        released(tmp_path)
        file, old, _ = changes.CHANGES[which]
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text.replace(old, times * old))
        with pytest.raises(StratbenchError, match=rf"in one place\. Received: {times} such places"):
            changes.change(tmp_path)

    def test_another_download_is_refused(self, tmp_path):
        (tmp_path / recipe.SDIST).write_bytes(b"not Horovod")
        with pytest.raises(StratbenchError, match=f"SHA-256 of {recipe.SDIST} must be {recipe.SDIST_SHA256}"):
            recipe.check_sdist(tmp_path / recipe.SDIST)

    def test_an_archive_cannot_write_outside(self, tmp_path):
        with tarfile.open(tmp_path / recipe.SDIST, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../outside"))
        with pytest.raises(tarfile.FilterError):
            recipe.unpack(tmp_path / recipe.SDIST, tmp_path / "inside")

    def test_settings_are_ours_where_the_user_says_nothing(self):
        ours = {"HOROVOD_LOCAL_VERSION": "tf2.21.0.glooyield.wakes"}
        for name in ("WITH_TENSORFLOW", "WITHOUT_PYTORCH", "WITHOUT_MXNET", "WITH_GLOO", "WITHOUT_MPI"):
            ours[f"HOROVOD_{name}"] = "1"
        assert recipe.build_settings({"PATH": "", "HOME": "/"}, "2.21.0") == ours

    def test_the_users_settings_win(self):
        given = {"HOROVOD_WITH_MPI": "1", "HOROVOD_WITHOUT_GLOO": "1", "HOROVOD_GPU_OPERATIONS": "NCCL"}
        settings = recipe.build_settings({"PATH": "", **given}, "2.21.0")
        assert given.items() <= settings.items()
        assert not {"HOROVOD_WITHOUT_MPI", "HOROVOD_WITH_GLOO"} & settings.keys()

    def test_mpi_is_built_in_where_its_compiler_is(self, tmp_path):
        (tmp_path / "mpicxx").write_text("")
        (tmp_path / "mpicxx").chmod(0o755)
        assert recipe.build_settings({"PATH": str(tmp_path)}, "2.21.0")["HOROVOD_WITH_MPI"] == "1"

    def test_the_key_tells_apart_what_does_not_fit(self):
        def key(tensorflow="2.21.0", **given):
            return recipe.cache_key(tensorflow, recipe.build_settings({"PATH": "", **given}, tensorflow))

        assert key() == key()
        assert len({key(), key(HOROVOD_WITH_MPI="1"), key(HOROVOD_GPU_OPERATIONS="NCCL"), key("2.22.0")}) == 4
        assert "tf2.21.0" in key() and sys.implementation.cache_tag in key()
        assert key() == Path(key()).name

    @pytest.mark.parametrize(
        "given, missing", [({}, "g++"), ({"CXX": "clang++-19 -O2"}, "clang++-19")], ids=["default", "CXX"]
    )
    def test_a_missing_compiler_is_told_before_anything_is_done(self, given, missing):
        with pytest.raises(StratbenchError) as raised:
            recipe.check_tools({"PATH": "", **given})
        assert str(raised.value) == f"{missing} is missing; install a C++17 compiler (Debian: apt-get install g++)"

    def test_an_old_cmake_is_passed_over(self, tmp_path):
        for version, found in (
            ("3.12.4", None),
            ("3.25.1", str(tmp_path / "cmake")),
            ("4.4.4", str(tmp_path / "cmake")),
        ):
            (tmp_path / "cmake").write_text(f"#!/bin/sh\necho cmake version {version}\n")
            (tmp_path / "cmake").chmod(0o755)
            assert recipe.find_cmake({"PATH": str(tmp_path)}) == found
        assert recipe.find_cmake({"PATH": "", "HOROVOD_CMAKE": "/opt/cmake"}) == "/opt/cmake"

    @pytest.mark.parametrize(
        "log, reason",
        [
            (
                "$ a\nerror: of the command before\n$ b\nCould NOT find MPI (missing: CXX)",
                "MPI can't be used",
            ),
            ("\n$ b\nx.cc:3:1: error: no such header.\nerror: make\n", "x.cc:3:1: error: no such header"),
            ("\n$ b\n", "see its last lines"),
        ],
    )
    def test_a_failure_is_explained_by_the_log(self, log, reason):
        assert recipe.explain(log).startswith(reason)


class TestStatus:
    def test_missing(self, tmp_path):
        found = _horovod_build.status([str(tmp_path)])
        assert not found.installed and found.version is None
        assert found.problem == "Horovod is not installed; run: stratbench install-horovod"

    def test_fine(self, tmp_path):
        horovod(tmp_path, library=GLOO + MPI)
        distribution(tmp_path, "tensorflow", "2.21.0")
        assert _horovod_build.status([str(tmp_path)]) == _horovod_build.HorovodStatus(
            True, "0.28.1+tf2.21.0", "2.21.0", ("gloo", "mpi"), nccl=False, problem=None
        )

    def test_whether_a_tensor_wakes_it(self, tmp_path):
        horovod(tmp_path, library=GLOO + b"..N7horovod6common11TensorQueue13WaitForTensorE..")
        distribution(tmp_path, "tensorflow", "2.21.0")
        assert _horovod_build.status([str(tmp_path)]).wakes

    @pytest.mark.parametrize(
        "tensorflow, library, installed, problem",
        [
            ("2.20.0", GLOO, "2.21.0", "was built for TensorFlow 2.20.0, and 2.21.0 is installed"),
            ("2.21.0", GLOO, None, "needs TensorFlow, which is not installed"),
            ("", GLOO, "2.21.0", "was built without TensorFlow, or without Gloo and MPI"),
            ("2.21.0", b"", "2.21.0", "was built without TensorFlow, or without Gloo and MPI"),
        ],
    )
    def test_unfit(self, tmp_path, tensorflow, library, installed, problem):
        horovod(tmp_path, tensorflow, library)
        if installed:
            distribution(tmp_path, "tensorflow", installed)
        found = _horovod_build.status([str(tmp_path)])
        assert found.installed
        assert found.problem == f"Horovod 0.28.1+tf2.21.0 {problem}; run: stratbench install-horovod"

    def test_a_release_candidate_is_written_in_two_ways(self, tmp_path):
        horovod(tmp_path, "2.22.0-rc1")
        distribution(tmp_path, "tensorflow", "2.22.0rc1")
        assert _horovod_build.status([str(tmp_path)]).problem is None

    def test_loads_no_framework(self):
        program = (
            "import sys; from stratbench.harness.horovod_setup import install as h; h.status();"
            "sys.exit(bool({'tensorflow', 'keras', 'horovod'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestInstall:
    def test_needs_tensorflow(self, monkeypatch, tmp_path):
        monkeypatch.setattr(install_horovod, "installed_tensorflow", lambda: None)
        with pytest.raises(StratbenchError, match=r"run: pip install 'tensorflow>=2\.21'"):
            install_horovod.install(print, tmp_path)

    def test_a_damaged_wheel_is_not_taken(self, tmp_path):
        assert install_horovod.find_wheel(tmp_path / "nowhere") is None
        (tmp_path / "horovod-0-a.whl").write_bytes(b"half")
        assert install_horovod.find_wheel(tmp_path) is None
        with zipfile.ZipFile(tmp_path / "horovod-1-a.whl", "w"):
            pass
        assert install_horovod.find_wheel(tmp_path) == tmp_path / "horovod-1-a.whl"

    def test_the_default_cache_follows_xdg(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert install_horovod.default_cache() == tmp_path / "stratbench"
        for unset in ("", "relative"):
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
            assert install_horovod.default_cache() == Path.home() / ".cache" / "stratbench"


class TestLoggedRun:
    def test_logs_output_and_tells_progress(self, tmp_path):
        said = []
        run = LoggedRun(tmp_path / "logs" / "build.log", said.append)
        script = 'for i in 1 5 20 25 100; do echo "[ $i%] x"; sleep 0.05; done; exit 3'
        assert run("compiling", ["sh", "-c", script], os.environ) == 3
        assert [line.split("] ")[1] for line in said] == ["compiling", "compiling: 20 %", "compiling: 100 %"]
        assert "[ 25%] x" in run.path.read_text()

    def test_nothing_survives_an_interruption(self, tmp_path):
        program = (
            "import os, pathlib; from stratbench.harness.horovod_setup import logged_run as l\n"
            "with l.ended_by_signal():\n    run = l.LoggedRun(pathlib.Path('log'), print)\n"
            "    run('wait', ['sh', '-c', 'sleep 600 & echo $! > child; wait'], os.environ)"
        )
        process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.DEVNULL)
        child = tmp_path / "child"
        wait_until(lambda: child.exists() and child.read_text().strip())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        wait_until(lambda: not alive(int(child.read_text())))

    def test_a_signal_waits_until_the_command_is_known(self, tmp_path, monkeypatch):
        """It comes within Popen, when the command runs already."""
        started = []

        def popen(*arguments, **settings):
            started.append(original(*arguments, **settings))
            signal.raise_signal(signal.SIGTERM)
            return started[0]

        original = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", popen)
        run = LoggedRun(tmp_path / "log", print)
        with pytest.raises(SystemExit), ended_by_signal():
            run("wait", ["sleep", "600"], os.environ)
        assert started[0].returncode == -signal.SIGTERM


def wait_until(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMakefile:
    def make(self, *arguments, path=None):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        env["PATH"] = path or env["PATH"]
        make = str(shutil.which("make"))
        return subprocess.run([make, *arguments], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)

    def test_alone_it_prints_its_help(self):
        answer = self.make()
        assert answer.returncode == 0
        for target in ("bench", "test", "check", "overhead", "setup", "clean"):
            assert f"make {target} " in answer.stdout

    @pytest.mark.parametrize("target", ["setup", "bench", "test", "check", "overhead", "clean"])
    def test_every_target_is_well_formed(self, target):
        answer = self.make("-n", target)
        assert answer.returncode == 0, answer.stderr
