"""What models of sequences share: blocks of Vaswani et al., *Attention Is All You Need*, NIPS 2017.

Normalisation comes first in each block, as in GPT-2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError

if TYPE_CHECKING:
    import keras

_WIDENING = 4


def check_heads(name: str, width: int, heads: int) -> None:
    """Raise UsageError if the width can't be divided among the heads."""
    if width % heads:
        raise UsageError(f"model {name} needs a width that its heads divide. Received: width {width}, {heads} heads.")


def with_positions(ids: keras.KerasTensor, embedded: keras.KerasTensor, length: int, width: int) -> keras.KerasTensor:
    """Add to each token's vector the one that is learnt for its place."""
    from keras import layers, ops

    # From the ids, as a graph on parameter servers takes no tensor that was computed before.
    places = ops.cumsum(ops.ones_like(ids), axis=-1) - 1
    return embedded + layers.Embedding(length, width, name="positions")(places)


def block(x: keras.KerasTensor, width: int, heads: int, causal: bool) -> keras.KerasTensor:
    """Self-attention and two dense layers, each added to what it takes."""
    from keras import layers

    normalised = layers.LayerNormalization(epsilon=1e-5)(x)
    # No biases: that of the keys changes no output, so its gradient would be nothing but rounding.
    attention = layers.MultiHeadAttention(heads, width // heads, use_bias=False)
    x = x + attention(normalised, normalised, use_causal_mask=causal)
    hidden = layers.Dense(_WIDENING * width, activation="gelu")(layers.LayerNormalization(epsilon=1e-5)(x))
    return x + layers.Dense(width)(hidden)
