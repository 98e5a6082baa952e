"""From what a user's data function returns to arrays, or to streams of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import numpy as np

from ...datasets.prepared import NAMES, Examples, Set, UnfitError, encoded, is_text, look_of
from ...datasets.structure import leaves, map_structure
from .streams import Stream

_FORMS = (
    "it must return (x, y), (x, y, sample_weight), a keras.utils.PyDataset, a tf.data.Dataset, a sequence of (x, y), "
    "an array x without targets, or a dictionary or tuple of these for train and test"
)
_PARTS = (2, 3)


def sets(returned: Any, tell: Callable[[str], None] = lambda words: None, timeout: float = math.inf) -> dict[str, Set]:
    """Set → its arrays, or a stream of them.

    Args:
        tell: of a `Stream`.
        timeout: of a `Stream` whose length is not known.

    Raises:
        UnfitError: for what is not understood. Its rule is a sentence.
    """
    found = {name: _arrays(name, each, tell, timeout) for name, each in _by_name(returned).items()}
    for name, each in found.items():
        if not count(each):
            raise UnfitError(f"the {name} set must have examples", "none")
    return found


def count(each: Set) -> int:
    """How many examples a set has, by its first array."""
    first = leaves(look_of(each))[0]
    return len(first) if getattr(first, "shape", ()) else 0


def _by_name(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        if NAMES[0] not in returned or not set(returned) <= set(NAMES):
            raise UnfitError(
                f"a dictionary must have the key train, and may have {NAMES[1]} and {NAMES[2]}", _keys(returned)
            )
        return {name: returned[name] for name in NAMES if name in returned}
    if _source(returned) is not None or hasattr(returned, "shape"):
        return {NAMES[0]: returned}
    if isinstance(returned, tuple | list) and len(returned) in _PARTS:
        if not all(map(_is_set, returned)) and not _are_untargeted(returned):
            return {NAMES[0]: returned}
        rows = {_rows(each) for each in returned}
        if len(rows) == 1 and None not in rows:
            raise UnfitError(
                "return a dictionary such as {'train': (x, y), 'test': (x, y)}, as (train, test) sets of one size look "
                "like (x, y) of several arrays",
                f"a tuple of {len(returned)} tuples",
            )
        names = NAMES if len(returned) == len(NAMES) else (NAMES[0], NAMES[-1])
        return dict(zip(names, returned, strict=True))
    raise UnfitError(_FORMS, _type(returned))


def _is_set(value: Any) -> bool:
    """Whether it looks like (x, y) or (x, y, sample_weight), or yields these."""
    if _source(value) is not None:
        return True
    if not isinstance(value, tuple | list) or len(value) not in _PARTS or not all(map(_is_structure, value)):
        return False
    return _rows(value) is not None


def _are_untargeted(values: Sequence[Any]) -> bool:
    """Whether each is (x,), and their sizes say that they are several sets rather than x and y."""
    alone = all(isinstance(each, tuple) and len(each) == 1 and _is_structure(each) for each in values)
    return alone and len(set(map(_rows, values))) > 1


def _rows(value: Any) -> int | None:
    """How many rows all arrays have; None where they differ, or for a source."""
    if _source(value) is not None:
        return None
    counts = {len(each) if getattr(each, "shape", ()) else -1 for each in leaves(_structure(value))}
    return counts.pop() if len(counts) == 1 else None


def _is_structure(value: Any) -> bool:
    """Whether it is an array, or a list, tuple or dictionary of these."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_structure, value.values()))
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_structure, value))
    return hasattr(value, "shape")


def _structure(value: Any) -> Any:
    """Lists as tuples, other mappings as dictionaries. A list of numbers is one array."""
    if isinstance(value, Mapping):
        # In one order for all sets, as Keras has it.
        return {key: _structure(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, tuple) or (isinstance(value, list) and _is_structure(value)):
        return tuple(map(_structure, value))
    return value


def _arrays(name: str, value: Any, tell: Callable[[str], None], timeout: float) -> Set:
    if (source := _source(value)) is not None:
        return Stream(name, lambda: _batches(name, source()), tell, math.inf if _ends(value) else timeout)
    if hasattr(value, "shape"):
        value = (value,)
    return _examples(f"the {name} set must be", value)


def _examples(must: str, value: Any) -> Examples:
    """The parts of a set or of a batch, with empty targets where there are none."""
    if not isinstance(value, tuple | list) or len(value) not in (1, *_PARTS):
        raise UnfitError(f"{must} (x, y), (x, y, sample_weight) or x alone", _type(value))
    x, *others = (map_structure(_array, _structure(each)) for each in value)
    return (x, *(others or [()]))


def _array(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise UnfitError("arrays must be convertible by np.asarray", f"{_type(value)} ({error})") from error
    if array.dtype != object and not is_text(array.dtype):
        return array
    try:
        return encoded(array)
    except (TypeError, UnicodeError):
        rule = "arrays must be of numbers or text, and each of one shape"
        raise UnfitError(rule, f"{_type(value)} of Python objects") from None


def _source(value: Any) -> Callable[[], Iterator[Any]] | None:
    """Batches (x, y) or (x, y, sample_weight), from the start each time that it is called; None for other values."""
    import keras
    import tensorflow as tf

    if isinstance(value, GeneratorType):
        raise UnfitError("a generator has no known end; return arrays, a PyDataset or a tf.data.Dataset", "a generator")
    if isinstance(value, tf.data.Dataset):
        if value.cardinality().numpy() == tf.data.INFINITE_CARDINALITY:
            raise UnfitError("a tf.data.Dataset must end: leave out repeat(), or add take(n)", "an infinite one")
        return lambda: iter(value.as_numpy_iterator())
    if isinstance(value, keras.utils.PyDataset):
        if value.num_batches is None:
            raise UnfitError("a PyDataset must have a length", "one without __len__")
        return lambda: _by_index(value, value.num_batches)
    plain = isinstance(value, tuple | list | Mapping | str | bytes) or hasattr(value, "shape")
    if not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return lambda: map(_one, _by_index(value, len(value)))
    return None


def _ends(source: Any) -> bool:
    """Whether its length is known."""
    return not hasattr(source, "cardinality") or source.cardinality().numpy() >= 0


def _by_index(value: Any, length: int) -> Iterator[Any]:
    for place in range(length):
        yield value[place]
    if hasattr(value, "on_epoch_end"):
        value.on_epoch_end()


def _one(example: Any) -> Any:
    """A batch of one example."""
    return map_structure(lambda each: np.asarray(each)[np.newaxis], _structure(example))


def _batches(name: str, source: Iterator[Any]) -> Iterator[Examples]:
    for batch in source:
        alone = isinstance(batch, Mapping) or hasattr(batch, "shape")
        yield _examples(f"the {name} set must give", (batch,) if alone else batch)


def _keys(value: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(value)[:10])) or "an empty one"


def _type(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
