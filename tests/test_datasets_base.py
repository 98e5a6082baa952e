import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_helpers import message
from stratbench.datasets import base, mnist
from stratbench.datasets._arrays import blocks
from stratbench.datasets.base import available, describe, parse
from stratbench.datasets.batches import Batches
from stratbench.datasets.hdf5 import Hdf5
from stratbench.datasets.split import split_rows
from stratbench.datasets.synthetic import Synthetic

NAMES = "hdf5, keras, mnist, mnist-12k, npz, package.module:function, synthetic, tfrecord"


def test_modules_are_discovered():
    assert ", ".join(available()) == NAMES
    folder = Path(base.__file__).parent
    assert not (folder / "__init__.py").exists()
    for cls in available().values():
        assert cls.summary
        assert cls.licence


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("synthetic", Synthetic()),
        ("synthetic:seed=3", Synthetic(seed=3)),
        ("synthetic,seed=3", Synthetic(seed=3)),
        (
            "synthetic:shape=32x32x3,classes=4,examples=99,seed=1",
            Synthetic((32, 32, 3), classes=4, examples=99, seed=1),
        ),
        ("hdf5:a.h5", Hdf5("a.h5")),
        ("hdf5:path=a.h5", Hdf5("a.h5")),
        ("hdf5:~/a:b,c=d.h5", None),
        ("hdf5:~/a,b 1=2.h5,y=labels", Hdf5("~/a,b 1=2.h5", y="labels")),
        ("hdf5:a=b.h5,x=group/images,classes=7", Hdf5("a=b.h5", x="group/images", classes=7)),
    ],
)
def test_references(reference, expected):
    if expected is None:
        assert "'c'" in message(lambda: parse(reference))
        return
    assert parse(reference) == expected
    assert parse(expected.reference) == expected


def test_shortest_reference():
    assert parse("mnist").reference == "mnist"
    assert parse("synthetic,seed=0").reference == "synthetic"
    assert parse("synthetic,classes=3,shape=4x5").reference == "synthetic:shape=4x5,classes=3"
    assert parse("hdf5:a.h5,y=b,x=x").reference == "hdf5:a.h5,y=b"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (
            "mnits",
            f"data set must be one of {NAMES}. Received: 'mnits'. Did you mean 'mnist'?",
        ),
        ("", f"data set must be one of {NAMES}. Received: ''"),
        (
            "cifar10",
            f"data set must be one of {NAMES}. Received: 'cifar10'. Did you mean 'keras:cifar10'?",
        ),
        (
            "synthetic:shpe=3",
            "option of synthetic must be one of shape, classes, examples, seed. "
            "Received: 'shpe'. Did you mean 'shape'?",
        ),
        ("synthetic:classes=ten", "classes of synthetic must be an integer. Received: 'ten'"),
        ("synthetic:shape=28xx1", "shape of synthetic must be a shape such as 28x28x1. Received: '28xx1'"),
        (
            "synthetic:seed=1,seed=2",
            "seed of synthetic must be given once. Received: 'synthetic:seed=1,seed=2'",
        ),
        ("synthetic:seed=", "options of data set synthetic must be key=value. Received: 'seed='"),
        ("synthetic:28x28", "options of data set synthetic must be key=value. Received: '28x28'"),
        ("mnist,seed=1", "option of mnist must be one of scale. Received: 'seed'"),
        ("mnist:", "options of data set mnist must be key=value. Received: ''"),
        ("mnist:scale=0", "scale of mnist must be a factor such as 1/255. Received: '0'"),
        ("mnist:scale=1/0", "scale of mnist must be a factor such as 1/255. Received: '1/0'"),
        ("mnist:scale=-1/255", "scale of mnist must be a factor such as 1/255. Received: '-1/255'"),
        ("mnist:scale=inf", "scale of mnist must be a factor such as 1/255. Received: 'inf'"),
        ("mnist:scale=1e999999999", "scale of mnist must be a factor such as 1/255. Received: '1e999999999'"),
        ("hdf5", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5'"),
        ("hdf5:", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5:'"),
        ("hdf5,x=a", "data set hdf5 must have its path, as in hdf5:PATH. Received: 'hdf5,x=a'"),
        (
            "hdf5:a.h5,z=1",
            "option of hdf5 must be one of "
            "path, x, y, sample_weight, classes, scale, validation_x, validation_y, validation_sample_weight, test_x, "
            "test_y, test_sample_weight. Received: 'z'",
        ),
        ("hdf5:a.h5,classes=many", "classes of hdf5 must be an integer. Received: 'many'"),
        (
            "synthetic:shape=0x2",
            "values in one example of synthetic must be 1..16777216. Received: 0",
        ),
        ("synthetic:shape=-2x-2", "values in one example of synthetic must be 1..16777216. Received: 0"),
        ("synthetic:classes=1", "classes of synthetic must be 2..85598. Received: 1"),
        ("synthetic:classes=1_0", "classes of synthetic must be an integer. Received: '1_0'"),
        ("synthetic:classes=٣", "classes of synthetic must be an integer. Received: '٣'"),
        ("synthetic:shape=1" + 16 * "x1", "dimensions of one example of synthetic must be 1..16. Received: 17"),
        (
            "hdf5:a.h5,test_x=t",
            "test_x and test_y of hdf5 must be given together. Received: test_x alone",
        ),
        (
            "hdf5:a.h5,validation_y=v",
            "validation_x and validation_y of hdf5 must be given together. Received: validation_y alone",
        ),
        ("hdf5:" + 4092 * "a", "data set must be at most 4096 characters long. Received: 4097"),
        (
            "hdf5:a\nb.h5",
            "data set must be UTF-8 without control characters. Rename the file, or give it a link with such a name. "
            "Received: 'hdf5:a\\nb.h5'",
        ),
        (
            "hdf5:\udcff.h5",
            "data set must be UTF-8 without control characters. Rename the file, or give it a link with such a name. "
            "Received: 'hdf5:\\udcff.h5'",
        ),
        ("synthetic:examples=0", "examples of synthetic must be 1..100000000. Received: 0"),
        ("synthetic:seed=-1", "seed of synthetic must be 0..9223372036854775807. Received: -1"),
    ],
)
def test_wrong_references(reference, expected):
    assert message(lambda: parse(reference)) == expected


def test_describe():
    shown = describe(Synthetic)
    assert shown["name"] == "synthetic"
    assert shown["options"][0] == {
        "name": "shape",
        "type": "a shape such as 28x28x1",
        "default": None,
        "help": "shape of one example, of real numbers (28x28x1 if only classes is given)",
    }
    defaults = {option["name"]: (option["type"], option["default"]) for option in describe(Hdf5)["options"]}
    assert defaults == {
        "path": ("text", "required"),
        "x": ("text", "x"),
        "y": ("text", "y"),
        "classes": ("an integer", None),
        "scale": ("a factor such as 1/255", "1"),
        **dict.fromkeys(("validation_x", "validation_y", "test_x", "test_y"), ("text", None)),
        **dict.fromkeys(("sample_weight", "validation_sample_weight", "test_sample_weight"), ("text", None)),
    }
    (scale,) = describe(mnist.Mnist)["options"]
    assert (scale["name"], scale["default"]) == ("scale", "1/255")


def test_scale_and_dtype():
    assert (parse("mnist").info().x.dtype, parse("mnist").info().scale) == ("uint8", Fraction(1, 255))
    assert parse("mnist-12k:scale=1/255").reference == "mnist-12k"
    for text, scale in (("1", 1), ("0.5", "1/2"), ("2/510", "1/255"), ("000000001.000000001", "1000000001/1000000000")):
        dataset = parse(f"mnist:scale={text}")
        assert dataset.info().scale == Fraction(scale)
        assert parse(dataset.reference) == dataset
    assert (Synthetic().info().x.dtype, Synthetic().info().scale) == ("float32", 1)


def test_import_is_cheap():
    code = (
        "import sys; from stratbench.datasets import base, batches, split; base.parse('mnist').info();"
        "print([m for m in ('tensorflow', 'keras', 'h5py', 'stratbench.harness', 'stratbench.strategies',"
        "'stratbench.results') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("reference", ["mnist-12k", "synthetic:examples=500"])
def test_through_batches(reference):
    dataset = parse(reference)
    parts = split_rows(dataset.info(), "default")
    source = Batches(dataset, parts["train"], global_batch=100, seed=0, shards=2, shard=1, sharding=dataset.sharding)
    x, y = next(source.epoch(0))
    assert x.shape == (50, *dataset.info().shape)
    assert y.max() < dataset.info().classes


def test_by_block():
    rows = np.array([7, 0, 15, 8, 1])
    assert [(block, rows[places].tolist()) for block, places in blocks.by_block(rows, 5)] == [
        (0, [0, 1]),
        (1, [7, 8]),
        (3, [15]),
    ]
    assert list(blocks.by_block(rows[:0], 5)) == []
