"""One vector per text from the hidden states of its tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.precision import at_least_float32


def pool(
    hidden: Float[jax.Array, "tokens hidden"], texts: TextBatch, feature: str, num_heads: int
) -> Float[jax.Array, "texts features"]:
    """(K, H) -> (rows, H), or (rows, 2 H) for "attention"; called inside a module's `__call__`."""
    hidden = at_least_float32(hidden)
    if feature == "attention":
        pooled: jax.Array = AttentionPooling(num_heads, name="pooling")(hidden, texts)
        return pooled
    return text_features(hidden, texts, feature)


class AttentionPooling(nn.Module):
    """The plain mean over a text's tokens, concatenated with means whose weights are learned.

    In a plain mean over two hundred tokens, the number in "fourteen sites" gets half a percent of
    the weight. Here each head scores the tokens and averages its own values.

    Attributes:
        num_heads: number of weighted means; concatenated, they are as wide as the hidden states.
    """

    num_heads: int = 12

    @nn.compact
    def __call__(
        self, hidden: Float[jax.Array, "tokens hidden"], texts: TextBatch
    ) -> Float[jax.Array, "texts 2*hidden"]:
        """(K, H) -> (rows, 2 H); padding rows are meaningless."""
        places, width = hidden.shape
        rows = texts.lengths.shape[0]
        text = jnp.asarray(texts.text_index)
        values = nn.Dense(width, name="values")(hidden)
        scores = nn.Dense(self.num_heads, use_bias=False, name="scores")(hidden)
        # One segment more than there are texts, for the padding.
        highest = jax.ops.segment_max(jax.lax.stop_gradient(scores), text, rows + 1)
        weights = jnp.exp(scores - highest[text])
        weighted = weights[:, :, None] * values.reshape(places, self.num_heads, -1)
        members = text_membership(texts, hidden.dtype)
        totals = members @ weighted.reshape(places, width)
        norms = jnp.maximum(members @ weights, 1e-6)
        pooled = totals.reshape(rows, self.num_heads, -1) / norms[:, :, None]
        mean = text_features(hidden, texts, "mean")
        return jnp.concatenate([mean, pooled.reshape(rows, width)], axis=1)


def text_membership(texts: TextBatch, dtype: DTypeLike) -> Float[jax.Array, "texts tokens"]:
    """(rows, K), one where the token belongs to the text, else zero."""
    rows = jnp.arange(texts.lengths.shape[0])
    return (jnp.asarray(texts.text_index)[None, :] == rows[:, None]).astype(dtype)


def text_features(
    hidden: Float[jax.Array, "tokens hidden"], texts: TextBatch, feature: str
) -> Float[jax.Array, "texts hidden"]:
    """(K, H) -> (rows, H): the hidden state of one token, or the mean over the text's tokens.

    Raises:
        ValueError: `feature` is not one of "first", "last", "mean".
    """
    first, lengths = jnp.asarray(texts.first_token), jnp.asarray(texts.lengths)
    if feature == "first":
        return hidden[first]
    if feature == "last":
        return hidden[first + jnp.maximum(lengths - 1, 0)]
    if feature == "mean":
        members = text_membership(texts, hidden.dtype)
        total = jnp.matmul(members, hidden, precision=jax.lax.Precision.HIGHEST)
        return total / jnp.maximum(lengths, 1).astype(hidden.dtype)[:, None]
    raise ValueError(f"Unknown text feature {feature!r}. Use one of first, last, mean.")
