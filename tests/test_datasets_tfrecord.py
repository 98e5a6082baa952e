"""``tfrecord:PATTERN``: records of several files, by a dictionary of features or by a function that parses."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from stratbench.datasets.base import Array, parse
from stratbench.errors import UsageError
from stratbench.harness.cli.commands import cli
from stratbench.harness.plan import temporary
from stratbench.harness.worker import prepare
from stratbench.results import load

MODULE = """
import tensorflow as tf

FEATURES = {
    "wave": tf.io.FixedLenFeature([6], tf.float32),
    "word": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}
VARYING = {"wave": tf.io.VarLenFeature(tf.float32), "label": FEATURES["label"]}

def parse(record):
    found = tf.io.parse_single_example(record, FEATURES)
    return found["wave"] * 2.0, found["label"]
"""
RANDOM = np.random.default_rng(0)
WAVES = RANDOM.normal(size=(120, 6)).astype("float32")
LABELS = np.arange(120) % 3


def feature(values: Any) -> tf.train.Feature:
    """As a record holds them."""
    if isinstance(values, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[values]))
    if isinstance(values, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[values]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two files of training, one of tests, and the user's module."""
    for name, first, end in (
        ("train-0.tfrecord", 0, 50),
        ("train-1.tfrecord", 50, 100),
        ("test.tfrecord", 100, 120),
        ("test.gz", 100, 120),
    ):
        with tf.io.TFRecordWriter(str(tmp_path / name), "GZIP" if name.endswith(".gz") else "") as file:
            for row in range(first, end):
                values = {"wave": WAVES[row], "label": int(LABELS[row]), "word": f"wörd{row}".encode()}
                features = tf.train.Features(feature={key: feature(value) for key, value in values.items()})
                file.write(tf.train.Example(features=features).SerializeToString())
    (tmp_path / "records_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "records_of_mine", raising=False)
    return tmp_path


def prepared(reference: str, folder: Path) -> Any:
    """The data set, after its records were read."""
    found = prepare.prepare(folder=str(folder), **parse(reference).question)
    return parse(reference, str(folder / found["file"]))


def test_features(folder: Path) -> None:
    dataset = prepared("tfrecord:train-*.tfrecord,features=records_of_mine:FEATURES,x=wave,y=label", folder)
    assert dataset.info().x == Array((6,), "float32") and dataset.info().classes == 3
    x, y = dataset.read(np.array([0, 99]))
    np.testing.assert_array_equal(x, WAVES[[0, 99]])
    assert y.tolist() == LABELS[[0, 99]].tolist()


def test_several_features_without_targets_and_a_test_set(folder: Path) -> None:
    options = "features=records_of_mine:FEATURES,x=wave+word,y=none,test=test.tfrecord"
    dataset = prepared(f"tfrecord:train-*.tfrecord,{options}", folder)
    info = dataset.info()
    assert info.x == {"wave": Array((6,), "float32"), "word": Array((), "S8")}
    assert (info.y, info.train_examples, info.test_examples) == ((), 100, 20)
    assert dataset.read(np.array([100]))[0]["word"].tolist() == ["wörd100".encode()]


def test_a_function_that_parses_compressed_records(folder: Path) -> None:
    dataset = prepared("tfrecord:test.gz,parse=records_of_mine:parse,compression=gzip,scale=1/2", folder)
    np.testing.assert_array_equal(dataset.read(np.array([3]))[0], WAVES[[103]] * 2)
    assert float(dataset.info().scale) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "must have features= or parse=, one of them"),
        (",features=a:B,parse=a:b", "must have features= or parse=, one of them"),
        (",parse=a", "parse of data set tfrecord must be package.module:NAME. Received: 'a'"),
        (",parse=a:b,x=wave", "x of data set tfrecord is for features="),
        (",parse=a:b,compression=lz4", "must be gzip or zlib. Received: 'lz4'"),
        (",parse=records_of_mine:nothing", "records_of_mine has no function 'nothing'"),
        (
            ",features=records_of_mine:FEATURES",
            "x of data set tfrecord must be one of wave, word, label. Received: 'x'",
        ),
        (
            ",features=records_of_mine:parse,x=wave",
            "must be a dictionary of tf.io features. Received: records_of_mine:p",
        ),
        (
            ",features=records_of_mine:VARYING,x=wave,y=label",
            "must be of a fixed length; parse= takes others. Received",
        ),
        (",parse=records_of_mine:parse,test=none-*", "must name existing files. Received: 'none-*'"),
        (",parse=records_of_mine:parse,test=records_of_mine.py", "failed while its examples were read: DataLossError"),
    ],
)
def test_what_will_not_do_is_one_line(options: str, message: str, folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        prepared(f"tfrecord:train-*.tfrecord{options}", folder)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None) -> None:
    reference = "tfrecord:train-*.tfrecord,parse=records_of_mine:parse,test=test.tfrecord"
    flags = ["--model", "mlp", "--global-batch", "10", "--steps", "3", "--output", "out"]
    # Other programs use that of the machine.
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv(temporary.VARIABLE, str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(SystemExit) as ended:
        cli(["run", "-s", "single", "--dataset", reference, *flags])
    assert ended.value.code == 0
    assert not list(place.rglob("*"))
    (row,) = load(folder / "out").runs.to_dict("records")
    assert (row["dataset"], row["input"], row["status"]) == (reference, "float32", "ok")
