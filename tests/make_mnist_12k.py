"""Make mnist-12k.h5, the sample of MNIST that is shipped with this package.

Usage: ``python tests/make_mnist_12k.py mnist.npz [mnist-12k.h5]``, where mnist.npz is Keras's file. The same input
gives the same bytes with the same HDF5 library. The file names this script by the place that it had then.
"""

import sys
from pathlib import Path

import h5py
import numpy as np

_SEED = 12_000
_TRAIN, _TEST = 10_000, 2_000
_CHUNK_ROWS = 250  # larger chunks make the file smaller by less than 0.2 %
_ATTRIBUTES = {
    "title": "mnist-12k: 10 000 training and 2 000 test images of MNIST",
    "source": "MNIST by Yann LeCun and Corinna Cortes, http://yann.lecun.com/exdb/mnist/, from Keras's file "
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "licence": "Creative Commons Attribution-ShareAlike 3.0, https://creativecommons.org/licenses/by-sa/3.0/",
    "changes": "A sample of the images; the images themselves are unchanged. Rows 0..9999 are drawn from "
    "MNIST's 60 000 training images, rows 10000..11999 from its 10 000 test images, with a fixed seed, every "
    "digit in its share of the original, in a shuffled order. mnist_row is the image's row in MNIST's "
    "training or test set. Made by stratbench's datasets/_make_mnist_12k.py.",
    "train_examples": _TRAIN,
    "test_examples": _TEST,
}


def pick(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return ``count`` rows in a shuffled order; every class has the same share as in ``labels``."""
    exact = np.bincount(labels) * count / len(labels)
    counts = exact.astype(int)
    # Method of largest remainders: they get what is left after rounding down.
    counts[np.argsort(counts - exact, kind="stable")[: count - counts.sum()]] += 1
    rows = [random.choice(np.flatnonzero(labels == label), size, replace=False) for label, size in enumerate(counts)]
    return random.permutation(np.concatenate(rows))


def make(source: Path, target: Path) -> None:
    """Write ``target`` from Keras's mnist.npz."""
    random = np.random.default_rng(_SEED)
    x, y, mnist_row = [], [], []
    with np.load(source, allow_pickle=False) as file:
        for part, count in (("train", _TRAIN), ("test", _TEST)):
            labels = file[f"y_{part}"]
            rows = pick(labels, count, random)
            x.append(file[f"x_{part}"][rows, ..., np.newaxis])
            y.append(labels[rows])
            mnist_row.append(rows.astype(np.uint16))
    with h5py.File(target, "w") as out:
        out.attrs.update(_ATTRIBUTES)
        for name, parts in (("x", x), ("y", y), ("mnist_row", mnist_row)):
            values = np.concatenate(parts)
            chunks = (_CHUNK_ROWS, *values.shape[1:]) if name == "x" else values.shape
            # Shuffle helps only values of more than one byte.
            shuffle = values.itemsize > 1
            out.create_dataset(
                name, data=values, chunks=chunks, compression="gzip", compression_opts=9, shuffle=shuffle
            )


if __name__ == "__main__":
    make(
        Path(sys.argv[1]),
        Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("mnist-12k.h5"),
    )
