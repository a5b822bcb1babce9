"""BERT on packed texts (Devlin et al., arXiv:1810.04805; the Hugging Face architecture).

Post-layer-norm blocks, exact GELU, learned absolute positions. All linear maps see the tokens of a
batch as one flat matrix; only attention knows tiles, and looks no further than a token's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from clac_jax.batch import IGNORED_LABEL, Array, TextBatch
from clac_jax.models.dropout import DropoutStream, drop, keep_mask
from clac_jax.models.pooling import AttentionPooling, text_features


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT; the names are those of a Hugging Face config.json."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over {self.num_attention_heads} "
                "attention heads. Make it a multiple of num_attention_heads."
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> BertConfig:
        """Takes the known keys; the others of a Hugging Face config do not concern the encoder."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@flax.struct.dataclass
class BertOutput:
    """What a text encoder returns.

    Attributes:
        features: (rows, H) one vector per text; (rows, 2 H) with "attention".
        hidden: (K, H) last hidden state of every token place.
        lm_loss_sum: (V,) summed masked-language-model loss of each view; None without labels.
        lm_num_tokens: (V,) labelled tokens of each view; None without labels.
    """

    features: Array
    hidden: Array
    lm_loss_sum: Array | None = None
    lm_num_tokens: Array | None = None


@flax.struct.dataclass
class _Tokens:
    """What dropout needs to know of each token place: its example and view, and its position."""

    example: Array
    position: Array


def _layer_norm(config: BertConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False, name=name)


def _dense(config: BertConfig, features: int, name: str) -> nn.Dense:
    init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, kernel_init=init, name=name)


class Attention(nn.Module):
    """Self-attention inside each text."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Array,
        texts: TextBatch,
        tokens: _Tokens | None,
        site: tuple[Array, Array] | None,
    ) -> jax.Array:
        """(K, H) -> (K, H); ``site`` is the cipher key of the attention dropout, None: none."""
        config = self.config
        heads = config.num_attention_heads
        width = config.hidden_size // heads
        query, key, value = (
            _dense(config, config.hidden_size, name)(x) for name in ("query", "key", "value")
        )
        query = query * width**-0.5

        rate = config.attention_probs_dropout_prob

        # Recomputed in the backward pass: a tile's scores are cheaper to compute than to keep.
        @jax.checkpoint
        def attend(tile: tuple[Array, Array, Array, Array, Array | None]) -> jax.Array:
            return tile_attention(*tile, rate)

        outputs = []
        first = 0
        for size, count in texts.tiles:
            places = slice(first, first + size * count)
            first = places.stop
            q, k, v = (
                jnp.transpose(y[places].reshape(count, size, heads, width), (0, 2, 1, 3))
                for y in (query, key, value)
            )
            text = jnp.asarray(texts.text_index)[places].reshape(count, size)
            keep = None
            if site is not None and tokens is not None and rate > 0:
                example = tokens.example[places].reshape(count, 1, size, 1)
                position = tokens.position[places].reshape(count, size)
                pair = (
                    position[:, None, :, None] * jnp.uint32(config.max_position_embeddings)
                    + position[:, None, None, :]
                )
                keep = keep_mask(heads, 1, rate, site, example, pair)
            mixed = jax.lax.map(attend, (q, k, v, text, keep), batch_size=_tiles_at_once(count))
            outputs.append(jnp.transpose(mixed, (0, 2, 1, 3)).reshape(-1, config.hidden_size))
        return _dense(config, config.hidden_size, "out")(jnp.concatenate(outputs))


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
) -> jax.Array:
    """Attention among the tokens of one tile that belong to the same text.

    Args:
        query: (heads, T, D), scaled.
        key: (heads, T, D).
        value: (heads, T, D).
        text: (T,) text of each token.
        keep: (heads, T, T) bool, probabilities that dropout keeps; None keeps all.
        rate: of dropout.

    Returns:
        (heads, T, D).
    """
    scores = query @ jnp.swapaxes(key, 1, 2)
    scores = jnp.where(text[:, None] == text, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    if keep is not None:
        probabilities = drop(probabilities, keep, rate)
    return probabilities @ value


def exact_gelu(x: Array) -> jax.Array:
    """GELU by erf, as PyTorch computes it; the erfc of jax.nn.gelu takes twice the time."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class MaskedLmHead(nn.Module):
    """Logits over the vocabulary; the last map is the transposed word embedding."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, word_embedding: Array) -> jax.Array:
        """(..., H), (vocabulary, H) -> (..., vocabulary)."""
        config = self.config
        x = exact_gelu(_dense(config, config.hidden_size, "transform")(x))
        x = _layer_norm(config, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        return x @ word_embedding.T + bias


def lm_loss_per_view(logits: Array, texts: TextBatch) -> tuple[jax.Array, jax.Array]:
    """Summed cross entropy and number of labelled tokens of each view.

    Args:
        logits: (K, vocabulary).
        texts: with labels.

    Returns:
        (V,), (V,).
    """
    labels = jnp.asarray(texts.labels)
    labelled = labels != IGNORED_LABEL
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    target = jnp.where(labelled, labels, 0)
    losses = -jnp.take_along_axis(log_probabilities, target[:, None], axis=-1)[:, 0]
    rows_per_view = texts.lengths.shape[0] // texts.num_views
    view = texts.text_index // rows_per_view
    counted = labelled[None, :] & (view[None, :] == jnp.arange(texts.num_views)[:, None])
    return jnp.sum(jnp.where(counted, losses, 0), axis=1), jnp.sum(counted, axis=1)


class Bert(nn.Module):
    """BERT encoder with one feature vector per text and, if asked, a masked-language-model loss.

    Attributes:
        config: sizes.
        feature: "first" or "last" token, "mean" over the text's tokens, or "attention": the mean
            beside learned weighted means.
        with_lm_head: whether the head exists.
    """

    config: BertConfig
    feature: str = "first"
    with_lm_head: bool = False

    @nn.compact
    def __call__(
        self,
        texts: TextBatch,
        *,
        stream: DropoutStream | None = None,
        token_types: Array | None = None,
    ) -> BertOutput:
        """Encodes texts.

        Args:
            texts: packed texts, each at most ``max_position_embeddings`` tokens.
            stream: randomness of dropout; None drops nothing.
            token_types: (K,) int32, zeros by default.

        Returns:
            BertOutput; features of padding rows are finite and meaningless.
        """
        config = self.config
        rate = config.hidden_dropout_prob
        init = nn.initializers.normal(config.initializer_range)

        def embedding(count: int, name: str) -> nn.Embed:
            return nn.Embed(count, config.hidden_size, embedding_init=init, name=name)

        rows = texts.lengths.shape[0]
        tokens = None
        if stream is not None:
            # Padding tokens take the id of some text; nothing reads them.
            ids = jnp.asarray(stream.example_ids)
            tokens = _Tokens(
                example=ids[jnp.minimum(texts.text_index, rows - 1)],
                position=jnp.asarray(texts.positions).astype(jnp.uint32),
            )

        def dropped(x: jax.Array, site: int) -> jax.Array:
            if stream is None or tokens is None or rate == 0:
                return x
            example, position = tokens.example[:, None], tokens.position[:, None]
            keep = keep_mask(x.shape[1], 1, rate, stream.site(site), example, position)
            return drop(x, keep, rate)

        word = embedding(config.vocab_size, "word_embedding")
        positions = embedding(config.max_position_embeddings, "position_embedding")
        types = embedding(config.type_vocab_size, "type_embedding")
        x = word(texts.ids) + positions(texts.positions)
        x = x + (types.embedding[0] if token_types is None else types(token_types))
        x = dropped(_layer_norm(config, "embedding_norm")(x), 0)
        for k in range(config.num_hidden_layers):
            site = None if stream is None else stream.site(3 * k + 1)
            y = Attention(config, name=f"layer_{k}_attention")(x, texts, tokens, site)
            x = _layer_norm(config, f"layer_{k}_attention_norm")(x + dropped(y, 3 * k + 2))
            y = _dense(config, config.intermediate_size, f"layer_{k}_intermediate")(x)
            y = _dense(config, config.hidden_size, f"layer_{k}_output")(exact_gelu(y))
            x = _layer_norm(config, f"layer_{k}_output_norm")(x + dropped(y, 3 * k + 3))

        if self.feature == "attention":
            features = AttentionPooling(config.num_attention_heads, name="pooling")(x, texts)
        else:
            features = text_features(x, texts, self.feature)
        output = BertOutput(features=features, hidden=x)
        if self.with_lm_head and texts.labels is not None:
            logits = MaskedLmHead(config, name="lm_head")(x, word.embedding)
            loss_sum, num_tokens = lm_loss_per_view(logits, texts)
            output = output.replace(lm_loss_sum=loss_sum, lm_num_tokens=num_tokens)
        return output
