"""Attention inside packed texts.

All linear maps see the tokens of a batch as one flat matrix; only attention uses the tiles, and it
never reaches beyond a token's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import drop
from clac_jax.models.precision import at_least_float32
from clac_jax.models.text.dropout import TextDropout
from clac_jax.models.text.layers import adapted_dense
from clac_jax.models.text.settings import TextEncoderSettings


class Heads(NamedTuple):
    """Queries, keys and values, each (..., D) per head."""

    query: Float[jax.Array, "*heads width"]
    key: Float[jax.Array, "*heads width"]
    value: Float[jax.Array, "*heads width"]


@dataclass(frozen=True)
class Sight:
    """Which tokens of its own text a token attends to.

    Attributes:
        causal: whether later tokens are excluded.
        window: number of preceding tokens to attend to, including the token itself; None: all.
    """

    causal: bool = False
    window: int | None = None


class Attention(nn.Module):
    """Self-attention inside each text.

    Attributes:
        settings: settings of the encoder.
        causal: whether later tokens are excluded.
        use_bias: whether the four linear maps have a bias.
    """

    settings: TextEncoderSettings
    causal: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "tokens hidden"],
        texts: TextBatch,
        dropout: TextDropout,
        site: int,
    ) -> Float[jax.Array, "tokens hidden"]:
        """(K, H) -> (K, H); `site` is the number of the dropout site in the network."""
        settings = self.settings
        num_heads = settings.num_attention_heads
        width = settings.hidden_size // num_heads
        query, key, value = (
            adapted_dense(settings, settings.hidden_size, name, self.use_bias)(x).reshape(
                -1, num_heads, width
            )
            for name in ("query", "key", "value")
        )
        heads = Heads(query * width**-0.5, key, value)
        mixed = attend(settings, heads, texts, dropout, site, Sight(self.causal))
        out: jax.Array = adapted_dense(settings, settings.hidden_size, "out", self.use_bias)(mixed)
        return out


def attend(
    settings: TextEncoderSettings,
    heads: Heads,
    texts: TextBatch,
    dropout: TextDropout,
    site: int,
    sight: Sight,
) -> Float[jax.Array, "tokens mixed"]:
    """Attention of each token over its own text, with all heads concatenated.

    Args:
        settings: settings of the encoder.
        heads: (K, heads, D) scaled queries, with keys and values of the same shape or with fewer
            heads, whose number divides that of the queries and which are shared by several each.
        texts: the packed texts.
        dropout: dropout of this forward pass.
        site: number of the dropout site in the network.
        sight: which tokens of its text a token attends to.

    Returns:
        (K, heads * D).
    """
    num_heads = heads.query.shape[1]
    rate = settings.attention_probs_dropout_prob

    # Recomputed in the backward pass: a tile's scores are cheaper to compute than to store.
    @jax.checkpoint
    def attend_tile(tile: tuple[Heads, jax.Array, jax.Array | None]) -> jax.Array:
        return tile_attention(*tile, rate, sight)

    outputs = []
    first = 0
    for size, count in texts.tiles:
        places = slice(first, first + size * count)
        first = places.stop
        q, k, v = (
            jnp.transpose(y[places].reshape(count, size, *y.shape[1:]), (0, 2, 1, 3)) for y in heads
        )
        if k.shape[1] != num_heads:
            k, v = (jnp.repeat(y, num_heads // y.shape[1], axis=1) for y in (k, v))
        text = jnp.asarray(texts.text_index)[places].reshape(count, size)
        max_positions = settings.max_position_embeddings
        keep = dropout.attention(places, (size, count), num_heads, max_positions, rate, site)
        tiles = (Heads(q, k, v), text, keep)
        mixed = jax.lax.map(attend_tile, tiles, batch_size=_tiles_per_kernel(count))
        outputs.append(jnp.transpose(mixed, (0, 2, 1, 3)).reshape(size * count, -1))
    return jnp.concatenate(outputs)


def _tiles_per_kernel(count: int) -> int | None:
    # One tile's scores fit in a CPU's cache: twice as fast as all tiles together. An accelerator
    # needs all of them in one kernel.
    return None if jax.default_backend() == "cpu" else count


def tile_attention(
    heads: Heads,
    text: Int[jax.Array, "tokens"],
    keep: Bool[jax.Array, "heads tokens tokens"] | None,
    rate: float,
    sight: Sight = Sight(),
) -> Float[jax.Array, "heads tokens width"]:
    """Attention among the tokens of one tile that belong to the same text.

    Args:
        heads: (heads, T, D) scaled queries, keys and values.
        text: (T,) text of each token; the tokens of a text are in order.
        keep: (heads, T, T) bool, probabilities kept by dropout; None keeps all.
        rate: dropout rate.
        sight: which tokens of its text a token attends to.

    Returns:
        (heads, T, D).
    """
    query, key, value = heads
    scores = at_least_float32(query @ jnp.swapaxes(key, 1, 2))
    seen = text[:, None] == text
    if sight.causal:
        seen &= jnp.tri(text.shape[0], dtype=bool)
    if sight.window is not None:
        seen &= ~jnp.tri(text.shape[0], k=-sight.window, dtype=bool)
    scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if keep is not None:
        probabilities = drop(probabilities, keep, rate)
    return probabilities @ value
