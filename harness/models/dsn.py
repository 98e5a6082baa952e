"""A deep stacking network: blocks that see the input and what all blocks before them predict.

Block l: h = σ(W [x; y₁; …; y_{l−1}]), y_l = U h. Source: Deng & Yu, *Deep Convex Net: A Scalable Architecture for
Speech Pattern Classification*, Interspeech 2011; Deng, Yu & Platt, *Scalable Stacking and Learning for Building Deep
Architectures*, ICASSP 2012. There, U follows from W in closed form, and one block is trained after the other. Here all
weights are trained by gradient descent, so that any strategy can: ``training=blocks`` gives each block its own squared
error, and stops gradients between blocks. Then a backward pass through one block needs nothing of the blocks after it;
``work_seconds`` / ``depth_seconds`` of a cut model show what could run at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .base import Model, option

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info


@dataclass(frozen=True)
class Dsn(Model):
    """Trained as one network, or block by block."""

    name = "dsn"
    summary = "a deep stacking network: blocks that see the input and all earlier predictions; training=blocks"

    blocks: int = option(3, "blocks")
    units: int = option(100, "hidden units of a block")
    training: Literal["together", "blocks"] = option(
        "together", "by the last block's error, or each block by its own error"
    )

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras
        from keras import layers

        from ._squared_error import LastAccuracy, half_squared_error, sum_over_blocks

        apart = self.training == "blocks"
        inputs = keras.Input(info.shape)
        x = layers.Flatten()(inputs)
        predictions: list[keras.KerasTensor] = []
        for number in range(self.blocks):
            earlier = [keras.ops.stop_gradient(each) for each in predictions] if apart else predictions
            seen = layers.Concatenate()([x, *earlier]) if earlier else x
            hidden = layers.Dense(self.units, activation="sigmoid", name=f"hidden_{number}")(seen)
            predictions.append(layers.Dense(self.classes(info), name=f"block_{number}")(hidden))
        outputs = keras.ops.stack(predictions, axis=1) if apart else predictions[-1]
        model = keras.Model(inputs, outputs, name=self.name)
        loss, accuracy = (sum_over_blocks, LastAccuracy()) if apart else (half_squared_error, "accuracy")
        model.compile(optimizer=None, loss=loss, metrics=[accuracy])
        return model
