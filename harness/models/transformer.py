"""An encoder that classifies texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...datasets.synthetic import Form, Values
from . import _attention
from .base import Model, option

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info

_LENGTH = 128


@dataclass(frozen=True)
class Transformer(Model):
    """Token and position embeddings, blocks of self-attention, the mean over all tokens, a dense layer."""

    name = "transformer"
    summary = "text classification by self-attention: token ids of shape (length,), 1.7 M parameters"

    vocabulary: int = option(20_000, "number of different token ids")
    width: int = option(64, "values of a token's vector")
    heads: int = option(4, "attention heads of a block")
    blocks: int = option(2, "blocks of attention and dense layers")

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _attention.check_heads(self.name, self.width, self.heads)

    def form(self) -> Form:
        """See `Model.form`: texts of two classes."""
        return Form(Values((_LENGTH,), "int32", below=self.vocabulary), Values((), "int32", "label", 2))

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)
        self.sequence(info)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras
        from keras import layers

        length = self.sequence(info)
        ids = keras.Input((length,), dtype=info.x.dtype)
        x = layers.Embedding(self.vocabulary, self.width, name="tokens")(ids)
        x = _attention.with_positions(ids, x, length, self.width)
        for _ in range(self.blocks):
            x = _attention.block(x, self.width, self.heads, causal=False)
        x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-5)(x))
        return keras.Model(ids, layers.Dense(self.classes(info))(x), name=self.name)
