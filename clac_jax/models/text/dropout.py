"""Dropout in text encoders."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import DropoutStream, drop, keep_mask


class TextDropout:
    """Dropout of one forward pass: masks depend only on step, site, example and token."""

    def __init__(self, texts: TextBatch, stream: DropoutStream | None):
        """Dropout for these texts; without a stream nothing is dropped."""
        self.stream = stream
        if stream is not None:
            # Padding tokens take the id of an arbitrary text; their output is never read.
            ids = jnp.asarray(stream.example_ids)
            rows = texts.lengths.shape[0]
            self.example = ids[jnp.minimum(texts.text_index, rows - 1)]
            self.position = jnp.asarray(texts.positions).astype(jnp.uint32)

    def hidden(self, x: jax.Array, rate: float, site: int) -> jax.Array:
        """(K, H) -> (K, H), dropout at one site in the network."""
        if self.stream is None or rate == 0:
            return x
        example, position = self.example[:, None], self.position[:, None]
        keep = keep_mask(x.shape[1], 1, rate, self.stream.site(site), example, position)
        return drop(x, keep, rate)

    def attention(
        self,
        places: slice,
        tile: tuple[int, int],
        heads: int,
        max_positions: int,
        rate: float,
        site: int,
    ) -> jax.Array | None:
        """(tiles, heads, T, T) bool, probabilities kept in some tiles; None: all are kept."""
        if self.stream is None or rate == 0:
            return None
        size, count = tile
        example = self.example[places].reshape(count, 1, size, 1)
        position = self.position[places].reshape(count, size)
        pair = position[:, None, :, None] * jnp.uint32(max_positions) + position[:, None, None, :]
        return keep_mask(heads, 1, rate, self.stream.site(site), example, pair)
