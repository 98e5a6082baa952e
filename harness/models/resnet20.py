"""The residual network for small images of He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016.

Section 4.2: three stages of three blocks with 16, 32 and 64 filters; where the size halves, the shortcut is strided
and padded with zeros (option A), so that it has no weights. 0.27 M parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...datasets.synthetic import Form, Values
from .base import Model

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info

_BLOCKS = 3
_FILTERS = (16, 32, 64)
_SMALLEST_IMAGE = 8


@dataclass(frozen=True)
class ResNet20(Model):
    """19 convolutions and a dense layer, with batch normalisation."""

    name = "resnet20"
    summary = "ResNet-20 of He et al. 2016 for images such as CIFAR-10's: 0.27 M parameters, batch normalisation"

    def form(self) -> Form:
        """See `Model.form`: CIFAR-10's."""
        return Form(Values((32, 32, 3)), Values((), "int32", "label", 10))

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)
        self.images(info, _SMALLEST_IMAGE)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras
        from keras import layers

        inputs = keras.Input(info.shape)
        x = layers.Activation("relu")(_convolution(inputs, _FILTERS[0], 1))
        for filters in _FILTERS:
            for block in range(_BLOCKS):
                x = _block(x, filters, 2 if block == 0 and filters != _FILTERS[0] else 1)
        outputs = layers.Dense(self.classes(info))(layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, outputs, name=self.name)


def _convolution(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    from keras import layers

    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def _block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    from keras import layers, ops

    residual = layers.Activation("relu")(_convolution(x, filters, strides))
    residual = _convolution(residual, filters, 1)
    if strides > 1:
        more = filters - x.shape[-1]
        x = ops.pad(layers.AveragePooling2D(1, strides)(x), ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
    return layers.Activation("relu")(layers.Add()([x, residual]))
