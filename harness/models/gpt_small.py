"""A decoder that predicts each next token, as Radford et al., *Language Models are Unsupervised Multitask Learners*,
2019 (GPT-2), small enough for a laptop. ``width=768,heads=12,blocks=12,vocabulary=50257`` has GPT-2 small's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...datasets.base import Array, described
from ...datasets.synthetic import Form, Values
from . import _attention
from .base import Model, option

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info

_LENGTH = 64


@dataclass(frozen=True)
class GptSmall(Model):
    """The scores of the next token come from the same table as the tokens' vectors."""

    name = "gpt-small"
    summary = "a language model as GPT-2: token ids and the ids that follow, both of shape (length,), 1.3 M parameters"

    vocabulary: int = option(4096, "number of different token ids")
    width: int = option(128, "values of a token's vector")
    heads: int = option(4, "attention heads of a block")
    blocks: int = option(4, "blocks of attention and dense layers")

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _attention.check_heads(self.name, self.width, self.heads)

    def form(self) -> Form:
        """See `Model.form`: sequences in which a token mostly says the next one."""
        ids = Values((_LENGTH,), "int32", below=self.vocabulary)
        return Form(ids, Values((_LENGTH,), "int32", "next", self.vocabulary))

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        length = self.sequence(info)
        if not isinstance(info.y, Array) or info.y.shape != (length,) or "int" not in info.y.dtype:
            received = f"{info.classes} class labels" if info.classes else f"targets of {described(info.y)}"
            raise self.needs(f"targets of shape ({length},): the token that follows each", received)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras
        from keras import layers

        from ._perplexity import Perplexity

        length = self.sequence(info)
        ids = keras.Input((length,), dtype=info.x.dtype)
        tokens = layers.ReversibleEmbedding(self.vocabulary, self.width, name="tokens")
        x = _attention.with_positions(ids, tokens(ids), length, self.width)
        for _ in range(self.blocks):
            x = _attention.block(x, self.width, self.heads, causal=True)
        scores = tokens(layers.LayerNormalization(epsilon=1e-5)(x), reverse=True)
        model = keras.Model(ids, scores, name=self.name)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=None, loss=loss, metrics=[Perplexity(), "accuracy"])
        return model
