"""The examples of TFRecord files.

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.prepared import Set, UnfitError
from ...errors import UsageError
from . import examples, importing

if TYPE_CHECKING:
    import tensorflow as tf

_BATCH = 256


def read(
    patterns: Mapping[str, str],
    features: str | None,
    parse: str | None,
    x: Sequence[str],
    y: Sequence[str],
    compression: str,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, Set]:
    """Set → its examples.

    Args:
        patterns: set → which files.
        features: reference of a dictionary of ``tf.io`` features.
        parse: reference of a function from a record to (x, y), instead.
        x, y: names of features.
        compression: as `tf.data.TFRecordDataset` has it.
        tell: see `examples.sets`.

    Raises:
        UnfitError: what they give can't be used.
        UsageError: there are no files, or what the references name can't be used.
    """
    import tensorflow as tf

    made = importing.function(parse, "parse of data set tfrecord") if parse else _of_features(features or "", x, y)

    def stream(pattern: str) -> tf.data.Dataset:
        files = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
        if not files:
            raise UsageError(f"data set tfrecord must name existing files. Received: {pattern!r}")
        return tf.data.TFRecordDataset(files, compression).map(made).batch(_BATCH)

    return examples.sets({name: stream(pattern) for name, pattern in patterns.items()}, tell)


def _of_features(reference: str, x: Sequence[str], y: Sequence[str]) -> Callable[[tf.Tensor], Any]:
    """A function from a record to (x, y)."""
    import tensorflow as tf

    features = importing.attribute(reference, "features of data set tfrecord")
    if not isinstance(features, Mapping):
        raise UsageError(
            f"features of data set tfrecord must be a dictionary of tf.io features. Received: "
            f"{reference}, {type(features).__name__}"
        )
    for option, names in (("x", x), ("y", y)):
        for name in names:
            if name not in features:
                raise UsageError(
                    f"{option} of data set tfrecord must be one of {', '.join(map(str, features))}. Received: {name!r}"
                )
            if not isinstance(features[name], tf.io.FixedLenFeature):
                kind = type(features[name]).__name__
                raise UnfitError("features must be of a fixed length; parse= takes others", f"{kind} for {name}")

    def chosen(found: Mapping[str, tf.Tensor], names: Sequence[str]) -> Any:
        return found[names[0]] if len(names) == 1 else {name: found[name] for name in names}

    def make(record: tf.Tensor) -> Any:
        found = tf.io.parse_single_example(record, dict(features))
        return (chosen(found, x), chosen(found, y)) if y else (chosen(found, x),)

    return make
