"""Checks of stored examples and labels. Nothing is guessed: an error says what was expected and what was found."""

import math
from typing import Any

import numpy as np

from .text import is_text

MAX_CLASSES = 2**20
MAX_ROWS = 100_000_000
_MAX_LABELS = 2**32  # values of y; all of them are read once
_MAX_UNIT_BYTES = 256 * 2**20  # of one example, or one chunk, which must be in memory at once
_MANY_CLASSES = 1000
_TYPES = "integers, floats or booleans of at most 64 bits"


class UnfitError(Exception):
    """Data that breaks a rule: "must be ``rule``. Received: ``received``"."""

    def __init__(self, rule: str, received: object) -> None:
        super().__init__(rule, received)
        self.rule, self.received = rule, received


def check_storage(stored: Any, text: bool = False) -> None:
    """Raise UnfitError for an h5py dataset that isn't plain numbers, is in other files, or has too large chunks.

    Args:
        text: whether it may be text.
    """
    unfit = _type_name(stored)
    if text and unfit and unfit.startswith("text"):
        if stored.dtype.kind != "S":
            # On damaged ones, HDF5 may hang.
            raise UnfitError("numbers, or text of a fixed length, as astype('S32') makes it", "text of varying length")
    elif unfit:
        raise UnfitError(_TYPES, unfit)
    if stored.external or stored.is_virtual:
        kind = "a dataset in external storage" if stored.external else "a virtual dataset"
        raise UnfitError("stored in the file itself", f"{kind}; copy it into one of this file")
    _check_shape(stored)
    unit = row_bytes(stored) * (stored.chunks[0] if stored.chunks else 1)
    if unit > _MAX_UNIT_BYTES:
        limit = f"{_MAX_UNIT_BYTES // 2**20} MiB"
        rule = f"stored in rows and chunks of at most {limit}, as h5repack makes them"
        raise UnfitError(rule, f"{unit / 2**20:.0f} MiB to be read together")


def check_array(array: np.ndarray, text: bool = False) -> None:
    """Raise UnfitError for a NumPy array that isn't plain numbers, with a row for each example.

    Args:
        text: whether it may be text.
    """
    if is_text(array.dtype):
        if not text:
            raise UnfitError(_TYPES, f"text, {array.dtype}")
    elif array.dtype.kind not in "iufb" or array.dtype.itemsize > 8:
        raise UnfitError(_TYPES, array.dtype)
    _check_shape(array)


def _check_shape(stored: Any) -> None:
    if not stored.shape:
        raise UnfitError("of shape (examples, ...)", "no values" if stored.shape is None else "a single value")
    if 0 in stored.shape:
        raise UnfitError("of a shape without zeros", stored.shape)
    if len(stored) > MAX_ROWS:
        raise UnfitError(f"of at most {MAX_ROWS} rows", len(stored))


def row_bytes(stored: Any) -> int:
    """Bytes of one row of an h5py dataset."""
    return math.prod(stored.shape[1:]) * stored.dtype.itemsize


def check_rows(stored: Any, examples: int, of: str) -> None:
    """Raise UnfitError for another number of rows."""
    if len(stored) != examples:
        raise UnfitError(f"of as many rows as {of}, {examples}", len(stored))


def check_labels_shape(stored: Any) -> None:
    """Raise UnfitError if the shape of labels is neither one label per example nor one-hot."""
    if stored.ndim > 2:
        raise UnfitError("of shape (examples,) or, one-hot, (examples, classes)", f"shape {stored.shape}")
    if is_one_hot(stored) and stored.shape[1] > MAX_CLASSES:
        raise UnfitError(f"one-hot for at most {MAX_CLASSES} classes", f"width {stored.shape[1]}")
    if stored.size > _MAX_LABELS:
        raise UnfitError(
            f"of at most {_MAX_LABELS} values; class indices, shape (examples,), do", f"shape {stored.shape}"
        )


def is_one_hot(labels: Any) -> bool:
    """Whether labels of this shape, stored or read, must be one-hot."""
    return labels.ndim == 2 and labels.shape[1] > 1


def class_indices(labels: np.ndarray, classes: int, first_row: int = 0) -> np.ndarray:
    """Turn stored labels into class indices, int32, all below ``classes``.

    Raises UnfitError for other labels. ``first_row`` is the row number of the first label, for the message.
    """
    if is_one_hot(labels):
        _check_one_hot(labels, first_row)
        return labels.argmax(axis=1).astype(np.int32)
    flat = labels.reshape(-1)
    if flat.dtype.kind == "f":
        _refuse_floats(flat, first_row)
    wrong = (flat < 0) | (flat >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        if flat[row] < 0:
            rule = "labels of 0 or more"
        elif classes < MAX_CLASSES:
            rule = f"labels of 0..{classes - 1} for {classes} classes"
        else:
            rule = f"labels of 0..{MAX_CLASSES - 1}"
        raise UnfitError(rule, f"{flat[row]} in row {first_row + row}")
    return flat.astype(np.int32)


def check_classes_found(seen: np.ndarray, rows: int) -> int:
    """Return the number of classes, from the labels alone; ``seen[i]`` is whether label i occurs.

    Raises UnfitError if this would add classes that don't exist.
    """
    classes, different = int(np.flatnonzero(seen)[-1]) + 1, int(seen.sum())
    regression = classes > _MANY_CLASSES and different * 10 > rows
    if regression or different * 2 < classes:
        rule = "given, as in classes=10, unless y holds most of the labels from 0 to the largest, many times each"
        raise UnfitError(rule, f"{different} different labels in {rows} rows, the largest {classes - 1}")
    return classes


def _type_name(stored: Any) -> str | None:
    """Name the type of an h5py dataset if it isn't plain numbers; None if it is."""
    import h5py

    try:
        dtype = stored.dtype
    except TypeError as error:
        return f"a type without an equivalent in NumPy ({error})"
    if dtype.fields:
        return f"a compound of {len(dtype.fields)} fields; a group with a dataset for each will do"
    for name, found in (
        ("text", h5py.check_string_dtype(dtype)),
        ("references", h5py.check_ref_dtype(dtype)),
        ("rows of varying length", h5py.check_vlen_dtype(dtype)),
        ("an enumeration", h5py.check_enum_dtype(dtype)),
        ("arrays within values", dtype.subdtype),
        ("complex numbers", dtype.kind == "c"),
        ("opaque bytes", dtype.kind not in "iufb"),
    ):
        if found:
            return f"{name}, {dtype}" if name in ("text", "complex numbers") else name
    return str(dtype) if dtype.itemsize > 8 else None


def _refuse_floats(values: np.ndarray, first_row: int) -> None:
    broken = ~np.isfinite(values) | (values != np.floor(values))
    row = int(broken.argmax())
    fix = "; y.astype('int64') makes them" if not broken.any() else ""
    rule = f"class indices stored as integers{fix}"
    raise UnfitError(rule, f"{values.dtype.name}, such as {values[row]} in row {first_row + row}")


def _check_one_hot(labels: np.ndarray, first_row: int) -> None:
    fit = ((labels != 0).sum(axis=1) == 1) & (labels == 1).any(axis=1)
    if fit.all():
        return
    row = int((~fit).argmax())
    raise UnfitError(
        "class indices or one-hot, exactly one 1 a row", f"{_describe(labels[row])} in row {first_row + row}"
    )


def _describe(row: np.ndarray) -> str:
    """The values that show that a row isn't one-hot."""
    values = row.astype(np.float64)
    if not np.isfinite(values).all():
        return f"{row[~np.isfinite(values)][0]}"
    if np.isin(values, (0, 1)).all():
        return f"{int(values.sum())} ones"
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-2:
        return f"values such as {values.max():.4g}, which sum to 1,"
    return f"values such as {row[(values != 0) & (values != 1)][0]}"
