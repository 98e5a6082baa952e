"""A sample of MNIST that comes with stratbench: real images, no download."""

import functools
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import DataError
from ._arrays.hdf5_file import DAMAGE
from .base import Array, Dataset, Info

_FILE = Path(__file__).with_name("mnist-12k.h5")
_TRAIN, _TEST = 10_000, 2_000
_SHAPE = (28, 28, 1)


@dataclass(frozen=True)
class Mnist12k(Dataset):
    """Training rows are from MNIST's training images, test rows from its test images; the shares of the digits are
    those of MNIST.
    """

    name = "mnist-12k"
    summary = "A sample of MNIST, shipped: 10 000 training and 2 000 test images, 28x28x1, 10 classes"
    licence = "CC BY-SA 3.0; MNIST is by Yann LeCun and Corinna Cortes"

    scale: Fraction = field(
        default=Fraction(1, 255), metadata={"help": "factor on the stored bytes; 1 leaves them as they are"}
    )

    def info(self) -> Info:
        """Return constants."""
        return Info(_TRAIN, _TEST, _TRAIN + _TEST, Array(_SHAPE, "uint8"), classes=10, scale=self.scale)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Dataset.read`; ``x`` is uint8. The first read keeps all 9 MB in the process."""
        x, y = _load_all()
        return x[rows], y[rows].astype(np.int32)


@functools.cache
def _load_all() -> tuple[np.ndarray, np.ndarray]:
    import h5py

    try:
        with h5py.File(_FILE, "r", locking=False) as file:
            x, y = file["x"][()], file["y"][()]
        if (x.dtype, x.shape) != (np.uint8, (_TRAIN + _TEST, *_SHAPE)) or y.shape != x.shape[:1]:
            raise ValueError(f"x is {x.dtype} {x.shape}, y {y.shape}")
        return x, y
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"mnist-12k.h5 must be as it was installed. Received: {_FILE} ({reason})") from error
