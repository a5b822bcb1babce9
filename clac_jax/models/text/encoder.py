"""What text encoders share: their output, dropout, attention inside packed texts, the LM loss.

All linear maps see the tokens of a batch as one flat matrix; only attention knows tiles, and looks
no further than a token's own text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from clac_jax.errors import one_line
from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import DropoutStream, drop, keep_mask
from clac_jax.models.precision import at_least_float32
from clac_jax.models.text.pooling import AttentionPooling, text_features
from clac_jax.text.sentences import IGNORED_LABEL
from clac_jax.typing import Array


@dataclass(frozen=True)
class TransformerSizes:
    """What the blocks of every text encoder need; the names are those of Hugging Face's BERT.

    `compute_dtype` is the type of the arithmetic, "bfloat16" for mixed precision; None: that of the
    parameters.

    Raises:
        ValueError: a size or a rate cannot be one, or the heads do not divide the width.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    initializer_range: float
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        self._check_values()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over {self.num_attention_heads} "
                "attention heads. Make it a multiple of num_attention_heads."
            )

    def _check_values(self) -> None:
        """They come from files of other programs, where anything can stand."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and "None" in str(field.type):
                continue
            kind = str(field.type).split(" | ")[0]
            if kind in _IS_USABLE and not _IS_USABLE[kind](value):
                raise ValueError(
                    f"{field.name} is {one_line(repr(value), 40)}, which is not {_WORDS[kind]}."
                )

    def with_dropout(self, rate: float) -> Self:
        """The same sizes, with this rate wherever there is dropout."""
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )


_MAX_SIZE = 10_000_000  # no language model has as many of anything but parameters
_IS_USABLE: dict[str, Callable[[Any], bool]] = {
    "int": lambda x: isinstance(x, int) and not isinstance(x, bool) and 0 < x <= _MAX_SIZE,
    "float": lambda x: (
        isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < _MAX_SIZE
    ),
    "bool": lambda x: isinstance(x, bool),
    "str": lambda x: isinstance(x, str),
}
_WORDS = {
    "int": "a size",
    "float": "a number of at least 0",
    "bool": "true or false",
    "str": "text",
}


@flax.struct.dataclass
class TextOutput:
    """What a text encoder returns.

    Attributes:
        features: (rows, H) one vector per text; (rows, 2 H) with "attention".
        hidden: (K, H) last hidden state of every token place.
        lm_loss_sum: (V,) summed language-model loss of each view; None without labels.
        lm_num_tokens: (V,) labelled tokens of each view; None without labels.
    """

    features: Array
    hidden: Array
    lm_loss_sum: Array | None = None
    lm_num_tokens: Array | None = None


class TextDropout:
    """Dropout of one forward pass: masks that depend on step, place, example and token alone."""

    def __init__(self, texts: TextBatch, stream: DropoutStream | None):
        """For these texts; without a stream nothing is dropped."""
        self.stream = stream
        if stream is not None:
            # Padding tokens take the id of some text; nothing reads them.
            ids = jnp.asarray(stream.example_ids)
            rows = texts.lengths.shape[0]
            self.example = ids[jnp.minimum(texts.text_index, rows - 1)]
            self.position = jnp.asarray(texts.positions).astype(jnp.uint32)

    def hidden(self, x: jax.Array, rate: float, site: int) -> jax.Array:
        """(K, H) -> (K, H) at one place of the network."""
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
        """(tiles, heads, T, T) of the probabilities of some tiles that stay; None: all of them."""
        if self.stream is None or rate == 0:
            return None
        size, count = tile
        example = self.example[places].reshape(count, 1, size, 1)
        position = self.position[places].reshape(count, size)
        pair = position[:, None, :, None] * jnp.uint32(max_positions) + position[:, None, None, :]
        return keep_mask(heads, 1, rate, self.stream.site(site), example, pair)


def layer_norm(sizes: TransformerSizes, name: str, affine: bool = True) -> nn.LayerNorm:
    """Layer norm in PyTorch's arithmetic; `affine`: with a scale and a bias."""
    return nn.LayerNorm(
        epsilon=sizes.layer_norm_eps,
        use_scale=affine,
        use_bias=affine,
        use_fast_variance=False,
        dtype=sizes.compute_dtype,
        name=name,
    )


def dense(sizes: TransformerSizes, features: int, name: str, use_bias: bool = True) -> nn.Dense:
    """A linear map as these models initialize it."""
    init = nn.initializers.normal(sizes.initializer_range)
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=init, dtype=sizes.compute_dtype, name=name
    )


def embed(sizes: TransformerSizes, count: int, features: int, name: str) -> nn.Embed:
    """A table of vectors as these models initialize it."""
    init = nn.initializers.normal(sizes.initializer_range)
    return nn.Embed(count, features, embedding_init=init, dtype=sizes.compute_dtype, name=name)


def exact_gelu(x: Array) -> jax.Array:
    """GELU by erf, as PyTorch computes it; the erfc of jax.nn.gelu takes twice the time."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": exact_gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
}


class Attention(nn.Module):
    """Self-attention inside each text.

    Attributes:
        sizes: of the encoder.
        causal: whether a token sees none that follow it.
        use_bias: in the four linear maps.
    """

    sizes: TransformerSizes
    causal: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, texts: TextBatch, dropout: TextDropout, site: int) -> jax.Array:
        """(K, H) -> (K, H); `site` is the number of the dropout's place in the network."""
        sizes = self.sizes
        heads = sizes.num_attention_heads
        width = sizes.hidden_size // heads
        query, key, value = (
            dense(sizes, sizes.hidden_size, name, self.use_bias)(x).reshape(-1, heads, width)
            for name in ("query", "key", "value")
        )
        mixed = attend(
            sizes, query * width**-0.5, key, value, texts, dropout, site, causal=self.causal
        )
        return dense(sizes, sizes.hidden_size, "out", self.use_bias)(mixed)


def attend(
    sizes: TransformerSizes,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    texts: TextBatch,
    dropout: TextDropout,
    site: int,
    *,
    causal: bool,
    window: int | None = None,
) -> jax.Array:
    """What each token gathers from the tokens of its own text, all heads side by side.

    Args:
        sizes: of the encoder.
        query: (K, heads, D), scaled.
        key: (K, heads, D), or fewer heads that divide those of the queries and serve several each.
        value: as the keys.
        texts: the packed texts.
        dropout: of this forward pass.
        site: number of the dropout's place in the network.
        causal: whether a token sees itself and those before it alone.
        window: how many of them, itself included; None: all.

    Returns:
        (K, heads * D).
    """
    heads = query.shape[1]
    rate = sizes.attention_probs_dropout_prob

    # Recomputed in the backward pass: a tile's scores are cheaper to compute than to keep.
    @jax.checkpoint
    def attend_tile(tile: tuple[Array, Array, Array, Array, Array | None]) -> jax.Array:
        return tile_attention(*tile, rate, causal, window)

    outputs = []
    first = 0
    for size, count in texts.tiles:
        places = slice(first, first + size * count)
        first = places.stop
        q, k, v = (
            jnp.transpose(y[places].reshape(count, size, *y.shape[1:]), (0, 2, 1, 3))
            for y in (query, key, value)
        )
        if k.shape[1] != heads:
            k, v = (jnp.repeat(y, heads // y.shape[1], axis=1) for y in (k, v))
        text = jnp.asarray(texts.text_index)[places].reshape(count, size)
        max_positions = sizes.max_position_embeddings
        keep = dropout.attention(places, (size, count), heads, max_positions, rate, site)
        mixed = jax.lax.map(attend_tile, (q, k, v, text, keep), batch_size=_tiles_at_once(count))
        outputs.append(jnp.transpose(mixed, (0, 2, 1, 3)).reshape(size * count, -1))
    return jnp.concatenate(outputs)


def _tiles_at_once(count: int) -> int | None:
    # One tile's scores stay in a CPU's cache: twice as fast as all at once. An accelerator wants
    # all of them in one kernel.
    return None if jax.default_backend() == "cpu" else count


def tile_attention(
    query: Array,
    key: Array,
    value: Array,
    text: Array,
    keep: Array | None,
    rate: float,
    causal: bool = False,
    window: int | None = None,
) -> jax.Array:
    """Attention among the tokens of one tile that belong to the same text.

    Args:
        query: (heads, T, D), scaled.
        key: (heads, T, D).
        value: (heads, T, D).
        text: (T,) text of each token; the tokens of a text stand in their order.
        keep: (heads, T, T) bool, probabilities that dropout keeps; None keeps all.
        rate: of dropout.
        causal: whether a token sees itself and those before it alone.
        window: how many of them, itself included; None: all.

    Returns:
        (heads, T, D).
    """
    scores = at_least_float32(query @ jnp.swapaxes(key, 1, 2))
    seen = text[:, None] == text
    if causal:
        seen &= jnp.tri(text.shape[0], dtype=bool)
    if window is not None:
        seen &= ~jnp.tri(text.shape[0], k=-window, dtype=bool)
    scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if keep is not None:
        probabilities = drop(probabilities, keep, rate)
    return probabilities @ value


def pool(hidden: Array, texts: TextBatch, feature: str, num_heads: int) -> jax.Array:
    """(K, H) -> (rows, H), or (rows, 2 H) for "attention"; called inside a module's `__call__`."""
    hidden = at_least_float32(hidden)
    if feature == "attention":
        return AttentionPooling(num_heads, name="pooling")(hidden, texts)
    return text_features(hidden, texts, feature)


def lm_loss_per_view(logits: Array, texts: TextBatch, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Summed cross entropy and number of labelled tokens of each view.

    Args:
        logits: (K, vocabulary).
        texts: the packed texts.
        labels: (K,) int32, what each place predicts; -100: nothing.

    Returns:
        (V,), (V,).
    """
    labelled = labels != IGNORED_LABEL
    log_probabilities = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
    target = jnp.where(labelled, labels, 0)
    losses = -jnp.take_along_axis(log_probabilities, target[:, None], axis=-1)[:, 0]
    rows_per_view = texts.lengths.shape[0] // texts.num_views
    view = texts.text_index // rows_per_view
    counted = labelled[None, :] & (view[None, :] == jnp.arange(texts.num_views)[:, None])
    return jnp.sum(jnp.where(counted, losses, 0), axis=1), jnp.sum(counted, axis=1)
