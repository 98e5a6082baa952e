"""Models as users compile them for ``fit``, and a file with data for each of them. Smooth, so that results agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

ROWS = 1200

DATA = {
    "two_by_two": "x=pairs/x,y=pairs/y",
    "regression": "x=wide,y=three",
    "segmentation": "x=pictures,y=masks",
    "half_trained": "x=wide,y=three",
    "weighted": "x=wide,y=three,sample_weight=importance",
    "own_loss": "x=wide,y=one",
    "binary": "x=wide,y=yes",
    "autoencoder": "x=wide,y=wide_again",
    "untargeted": "x=wide,y=none",
    "masked": "x=words,y=tags",
    "normalised": "x=words,y=both,sample_weight=worth",
    "rare": "x=wide,y=yes",
    "half": "x=wide,y=three",
    "scheduled": "x=wide,y=three",
    "accumulated": "x=wide,y=three",
    "bounded": "x=wide,y=three",
}
"""Function here → options of its data set."""


def dataset(path: Path, case: str) -> str:
    """The reference of a case's data, which is in the file of `write`."""
    return f"hdf5:{path},{DATA[case]}"


def write(path: Path) -> None:
    """Data of all cases. Nothing in it is a number of classes but what should be."""
    random = np.random.default_rng(3)
    wide = random.normal(size=(ROWS, 6)).astype("float32")
    three = np.tanh(wide @ random.normal(size=(6, 3))).astype("float32")
    ids = random.integers(20, size=(ROWS, 5)).astype("uint16")
    pictures = random.normal(size=(ROWS, 8, 8, 1)).astype("float32")
    with h5py.File(path, "w") as file:
        file["wide"], file["wide_again"], file["three"], file["one"] = wide, wide, three, three[:, 0]
        file["yes"] = (three[:, 0] > 0).astype("int64")
        file["importance"] = random.uniform(0.1, 3, size=ROWS).astype("float32")
        file["pictures"], file["masks"] = pictures, (pictures[..., 0] > 0).astype("uint8") + (pictures[..., 0] > 1)
        lengths = random.integers(1, 9, size=ROWS)
        words = random.integers(1, 20, size=(ROWS, 8)) * (np.arange(8) < lengths[:, None])
        file["words"], file["tags"] = words.astype("uint8"), (words % 5).astype("int64")
        file["both/tag"], file["both/length"] = np.where(words % 3 == 0, -1, words % 5), lengths.astype("float32")
        file["worth/tag"] = random.uniform(0.1, 3, size=(ROWS, 8)).astype("float32")
        file["worth/length"] = random.uniform(0.1, 3, size=ROWS).astype("float32")
        file["pairs/x/ids"], file["pairs/x/wide"] = ids, wide
        file["pairs/y/kind"], file["pairs/y/score"] = ids[:, 0].astype("int64") % 4, three


def two_by_two() -> keras.Model:
    """Two inputs and two outputs by name, each with its own loss, weight and metrics."""
    ids, wide = keras.Input((5,), dtype="uint16", name="ids"), keras.Input((6,), name="wide")
    words = layers.Flatten()(layers.Embedding(20, 4)(ids))
    hidden = layers.Dense(16, activation="gelu")(layers.Concatenate()([words, wide]))
    outputs = {"kind": layers.Dense(4, name="kind")(hidden), "score": layers.Dense(3, name="score")(hidden)}
    model = keras.Model({"ids": ids, "wide": wide}, outputs)
    kind = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        loss={"kind": kind, "score": "mse"},
        loss_weights={"kind": 1.0, "score": 0.3},
        metrics={"kind": ["accuracy"], "score": ["mae"]},
    )
    return model


def _dense(outputs: int, **last: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, activation="gelu", kernel_regularizer="l2"),
            layers.Dense(outputs, **last),
        ]
    )


def half_trained() -> keras.Model:
    """The second output has no loss, and the targets are those of the first alone."""
    x = keras.Input((6,))
    hidden = layers.Dense(16, activation="gelu")(x)
    model = keras.Model(x, [layers.Dense(3)(hidden), hidden])
    model.compile(loss=["mse", None])
    return model


def regression() -> keras.Model:
    """Three targets, a regulariser, a loss and metrics of regression."""
    model = _dense(3)
    model.compile(loss=keras.losses.Huber(), metrics=[keras.metrics.RootMeanSquaredError(), "mae"])
    return model


def segmentation(shape: tuple[int, ...] = (8, 8, 1)) -> keras.Model:
    """A class for each pixel."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(8, 3, padding="same", activation="gelu"),
            layers.Conv2D(3, 1),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    iou = keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")
    model.compile(loss=loss, metrics=["accuracy", iou])
    return model


def weighted() -> keras.Model:
    """Examples of different weights."""
    model = _dense(3)
    model.compile(loss="mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


class Own(keras.Model):
    """Overrides ``compute_loss``, updates a metric of its own there, and adds a loss in its call."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = layers.Dense(16, activation="gelu"), layers.Dense(1)
        self.seen = keras.metrics.Mean(name="quartic")

    def call(self, x: Any) -> Any:
        hidden = self.hidden(x)
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(hidden)))
        return self.last(hidden)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        """Without the argument ``training``, as before Keras 3.3."""
        loss = keras.ops.mean(keras.ops.square(y_pred[:, 0] - y) ** 2)
        self.seen.update_state(loss)
        return loss + keras.ops.sum(self.losses)


def own_loss() -> keras.Model:
    """See `Own`."""
    model = Own()
    model.compile()
    return model


def binary() -> keras.Model:
    """One output for two classes, after a layer that keeps what it was given as tensors."""
    model = keras.Sequential(
        [keras.Input((6,)), layers.Normalization(mean=0.2, variance=1.5), layers.Dense(1, activation="sigmoid")]
    )
    model.compile(loss="binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    return model


def autoencoder() -> keras.Model:
    """All of its loss is added in its call."""

    class Squared(layers.Layer):
        def call(self, x: Any, again: Any) -> Any:
            self.add_loss(keras.ops.mean(keras.ops.square(x - again)))
            return again

    x = keras.Input((6,))
    again = layers.Dense(6)(layers.Dense(3, activation="gelu")(x))
    model = keras.Model(x, Squared()(x, again))
    model.compile()
    return model


def untargeted() -> keras.Model:
    """`autoencoder` without targets, which it does not use."""
    return autoencoder()


OWN = {
    "scheduled": {
        "optimizer": "adamw:weight_decay=0.02,global_clipnorm=0.05",
        "compiled_schedule": "compiled CosineDecay",
        "learning_rate": 0.001,
    },
    "rare": {"optimizer": "momentum", "learning_rate": 0.05, "class_weight": "0=0.5,1=4"},
    "half": {"optimizer": "momentum", "learning_rate": 0.05, "precision": "mixed_bfloat16"},
    "accumulated": {"optimizer": "momentum:gradient_accumulation_steps=4,clipnorm=0.05", "learning_rate": 0.3},
}
"""Case → settings on the command line. The others are trained by another optimizer than they have."""


def scheduled(clip: bool = True) -> keras.Model:
    """AdamW with clipping and a cosine."""
    model = _dense(3)
    rate = keras.optimizers.schedules.CosineDecay(0.001, 15, alpha=0.1, warmup_target=0.01, warmup_steps=5)
    limit = {"global_clipnorm": 0.05} if clip else {}
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.02, **limit), loss="mse", metrics=["mae"])
    return model


def accumulated(clip: bool = True) -> keras.Model:
    """An update by four steps, whose mean is clipped."""
    model = _dense(3)
    limit = {"clipnorm": 0.05} if clip else {}
    optimizer = keras.optimizers.SGD(0.3, momentum=0.9, gradient_accumulation_steps=4, **limit)
    model.compile(optimizer, loss="mse", metrics=["mae"])
    return model


def masked() -> keras.Model:
    """A tag for each word of a sequence. What is padded has no part in the loss, and sequences differ in length.

    Beside that loss, there is one that a call adds.
    """
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="uint8"),
            layers.Embedding(20, 6, mask_zero=True),
            layers.SimpleRNN(6, return_sequences=True),
            layers.Dense(5, kernel_regularizer="l2", activity_regularizer=keras.regularizers.L2(0.05)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=["accuracy"])
    return model


def normalised() -> keras.Model:
    """Two losses with normalisers of their own: a class that is left out, and the sum of the sample weights."""
    words = keras.Input((8,), dtype="uint8")
    vectors = layers.Embedding(20, 6)(words)
    tag = layers.Dense(5, name="tag")(vectors)
    length = layers.Dense(1, name="length")(layers.Flatten()(vectors))
    model = keras.Model(words, {"tag": tag, "length": length})
    loss = {
        "tag": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        "length": keras.losses.Huber(reduction="mean_with_sample_weight"),
    }
    model.compile(loss=loss, loss_weights={"tag": 1.0, "length": 0.2}, metrics={"length": ["mae"]})
    return model


def rare() -> keras.Model:
    """Two classes, which the command line weighs."""
    model = _dense(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss=loss, metrics=["accuracy"])
    return model


def half() -> keras.Model:
    """Computed in 16 bits, as the command line says, with weights of 32."""
    model = _dense(3)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse", metrics=["mae"])
    return model


def bounded(bounds: bool = True) -> keras.Model:
    """Constraints that change every weight, which Keras applies after each update."""
    short, positive = (keras.constraints.MaxNorm(0.5), "non_neg") if bounds else (None, None)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", kernel_constraint=short),
            layers.Dense(3, kernel_constraint=positive, bias_constraint=positive),
        ]
    )
    model.compile("sgd", loss="mse", metrics=["mae"])
    return model


def assigned() -> keras.Model:
    """A layer whose call assigns its kernel, before the optimizer does."""
    dense = layers.SpectralNormalization(layers.Dense(8, activation="tanh"))
    model = keras.Sequential([keras.Input((6,)), dense, layers.Dense(3)])
    model.compile("sgd", loss="mse", metrics=["mae"])
    return model
