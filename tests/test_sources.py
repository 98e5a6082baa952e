"""A model or data file that was edited under the same name is other work: another run, kept apart in the table."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_spec
from stratbench.datasets._arrays import fingerprint as of_files
from stratbench.datasets.base import parse
from stratbench.harness.plan import sources
from stratbench.results.showing import terminal
from test_results_record import make_record
from test_results_record import make_spec as row_spec


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_is_its_file(here: Path) -> None:
    assert sources.digest("own:make") == ""
    (here / "own.py").write_text("def make(): pass")
    first = sources.digest("own:make")
    assert len(first) == 12 and sources.digest("own:other") == first
    (here / "own.py").write_text("def make(): return 1")
    assert sources.digest("own:make") not in ("", first)
    (here / "own.py").write_text("def make(): pass")
    assert sources.digest("own:make") == first


def test_a_package_is_all_of_its_files(here: Path) -> None:
    (here / "mine" / "deep").mkdir(parents=True)
    for name in ("__init__", "models", "deep/layers"):
        (here / "mine" / f"{name}.py").write_text(name)
    first = sources.digest("mine.models:make")
    assert sources.digest("mine:make") == first != ""
    (here / "mine" / "deep" / "layers.py").write_text("edited")
    assert sources.digest("mine.models:make") != first
    (here / "mine" / "notes.txt").write_text("no source")
    assert sources.digest("mine.models:make") == sources.digest("mine:make")


@pytest.mark.parametrize(
    "reference", ["cnn", "mlp-wide:units=8", "keras.applications:MobileNetV2", "no such:f", "", ":", "x" * 300 + ":f"]
)
def test_others_have_no_digest(reference: str) -> None:
    assert sources.digest(reference) == ""


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_commit_is_the_last_one_of_its_source(here: Path) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *author, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    def commit() -> str:
        return sources.commit("own:make")

    (here / "own.py").write_text("def make(): pass")
    assert commit() == sources.commit("cnn") == sources.commit("nowhere:make") == ""
    git("init", "-q")
    assert commit() == ""
    git("add", "own.py")
    git("commit", "-qm", "first")
    first = git("rev-parse", "HEAD")
    (here / "results").mkdir()
    (here / "results" / "other.py").write_text("not the model's")
    assert commit() == first
    (here / "own.py").write_text("def make(): return 1")
    assert commit() == first + "+"
    git("commit", "-qam", "second")
    assert commit() == git("rev-parse", "HEAD") != first


def test_a_data_file_is_its_content(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("npz:a.npz").digest() == parse("synthetic").digest() == parse("mnist-12k").digest() == ""
    np.savez("a.npz", x=np.zeros((9, 2)), y=np.arange(9) % 3)
    first = parse("npz:a.npz").digest()
    assert len(first) == 12 and parse("hdf5:a.npz").digest() == first
    Path("a.npz").touch()
    assert parse("npz:a.npz").digest() == first
    np.savez("a.npz", x=np.ones((9, 2)), y=np.arange(9) % 3)
    assert parse("npz:a.npz").digest() != first
    # A large file is not read.
    monkeypatch.setattr(of_files, "_MOST_BYTES", 10)
    large = parse("npz:a.npz").digest()
    assert large != first and parse("npz:a.npz").digest() == large


def test_an_edit_makes_another_run(here: Path) -> None:
    np.savez("a.npz", x=np.zeros((900, 2)), y=np.arange(900) % 3)
    (here / "own.py").write_text("def make(): pass")
    specs = [make_spec(model="own:make", dataset="npz:a.npz")]
    (here / "own.py").write_text("def make(): return 1")
    specs.append(make_spec(model="own:make", dataset="npz:a.npz"))
    np.savez("a.npz", x=np.ones((900, 2)), y=np.arange(900) % 3)
    specs.append(make_spec(model="own:make", dataset="npz:a.npz"))
    assert len({spec.run_id for spec in specs}) == 3
    assert specs[1].model_digest == specs[2].model_digest != specs[0].model_digest
    assert specs[0].data_digest == specs[1].data_digest != specs[2].data_digest
    # The work of a run without such files has the name that it always had.
    same = make_spec()
    assert same.model_dump().keys() >= {"model_digest", "data_digest"} and same.model_digest == same.data_digest == ""


def test_rows_of_an_edited_model_are_no_base_of_one_another() -> None:
    single, other = row_spec(strategy="single", replicas=1), row_spec(strategy="horovod")
    before = [make_record(spec | {"model_digest": "abcdef123456"}) for spec in (single, other)]
    after = [make_record(spec | {"model_digest": "0123456789ab"}) for spec in (other,)]
    stream = io.StringIO()
    terminal.render(pd.DataFrame([record.run for record in before + after]), terminal.make_console(stream))
    text = " ".join(stream.getvalue().split())
    assert text.count("· model file abcdef ") == text.count("· model file 012345 ") == 1
    assert "against single×1" in text.partition("012345")[0] and "single" not in text.partition("012345")[2]
