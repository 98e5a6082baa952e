"""All of MNIST: 70 000 real images of handwritten digits."""

import fcntl
import functools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from .base import Array, Dataset, Info

_FILE = "mnist.npz"
_TRAIN, _TEST = 60_000, 10_000
_SHAPE = (28, 28, 1)


@dataclass(frozen=True)
class Mnist(Dataset):
    """Takes mnist.npz from ``$STRATBENCH_DATA``, else from Keras's cache, else downloads it there."""

    name = "mnist"
    summary = "MNIST: 60 000 training and 10 000 test images of handwritten digits, 28x28x1, 10 classes"
    licence = "CC BY-SA 3.0; MNIST is by Yann LeCun and Corinna Cortes"

    scale: Fraction = field(
        default=Fraction(1, 255), metadata={"help": "factor on the stored bytes; 1 leaves them as they are"}
    )

    def info(self) -> Info:
        """Return constants: the file isn't needed before the first read."""
        return Info(_TRAIN, _TEST, _TRAIN + _TEST, Array(_SHAPE, "uint8"), classes=10, scale=self.scale)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Dataset.read`; ``x`` is uint8.

        The first read keeps all 55 MB in the process. Raises DataError if mnist.npz isn't MNIST, UsageError
        if there is none and it can't be downloaded.
        """
        x, y = _load_all()
        return x[rows], y[rows].astype(np.int32)


@functools.cache
def _load_all() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, shape (70000, 28, 28, 1), and labels, both uint8, the training ones first."""
    if folder := os.environ.get("STRATBENCH_DATA"):
        given = _expanded(folder) / _FILE
        if _is_there(given):
            return _load_file(given)
    cache = _expanded(os.environ.get("KERAS_HOME") or "~/.keras") / "datasets"
    with _alone(cache):
        return _load_file(cache / _FILE) if _is_there(cache / _FILE) else _download()


def _expanded(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise DataError(f"mnist.npz must be in a folder that exists. Received: {folder!r} ({error})") from error


def _is_there(path: Path) -> bool:
    """Whether a file with this name exists. Raises DataError if it isn't a regular file: opening a FIFO could block."""
    try:
        found = path.lstat()
        mode = path.stat().st_mode if stat.S_ISLNK(found.st_mode) else found.st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"mnist.npz must be a file. Received: {str(path)!r}, a link that leads nowhere") from None
        return False
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"mnist.npz must be a file that can be read. Received: {str(path)!r} ({error.__class__.__name__})"
        ) from error
    if not stat.S_ISREG(mode):
        raise DataError(f"mnist.npz must be a regular file. Received: {str(path)!r}")
    return True


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """A lock: Keras downloads to the final name, so other processes would read an incomplete file."""
    # Keras also uses the second folder if it can't write to the first.
    for folder in (cache, Path(tempfile.gettempdir(), ".keras", "datasets")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / f"{_FILE}.lock").open("w")
        except OSError:
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    yield


def _load_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return _joined(*(file[name] for name in ("x_train", "y_train", "x_test", "y_test")))
    except Exception as error:  # NumPy, zipfile and decompressors each raise their own errors for invalid bytes
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"mnist.npz must be Keras's MNIST file. Received: {str(path)!r} ({reason})") from error


def _download() -> tuple[np.ndarray, np.ndarray]:
    # Imported here, because it loads TensorFlow, which only processes that train may do.
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception if the download fails
        reason = " ".join(str(error).split())
        hint = "Put mnist.npz in the folder that STRATBENCH_DATA names, or use mnist-12k"
        raise UsageError(f"mnist.npz must be on this machine or downloadable. {hint}. Received: {reason}") from error
    return _joined(x_train, y_train, x_test, y_test)


def _joined(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the training and test rows into one array. Raises ValueError if they don't have MNIST's shapes."""
    for part, shape in (
        (x_train, (_TRAIN, *_SHAPE[:2])),
        (y_train, (_TRAIN,)),
        (x_test, (_TEST, *_SHAPE[:2])),
        (y_test, (_TEST,)),
    ):
        if part.shape != shape or part.dtype != np.uint8:
            raise ValueError(f"an array is {part.dtype}{list(part.shape)} instead of uint8{list(shape)}")
    x = np.concatenate([x_train, x_test]).reshape(-1, *_SHAPE)
    return x, np.concatenate([y_train, y_test])
