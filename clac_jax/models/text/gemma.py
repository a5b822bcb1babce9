"""Gemma 3 (arXiv:2503.19786) as a causal text encoder on packed texts, by Hugging Face's config.

Rotary positions, grouped-query attention with normalized queries and keys, most layers of which see
a window of tokens alone, a gated perceptron, and a norm before and after either.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.models.text.decoder import with_next_token_loss
from clac_jax.models.text.encoder import (
    ACTIVATIONS,
    TextDropout,
    TextOutput,
    TransformerSizes,
    attend,
    dense,
    embed,
    pool,
)
from clac_jax.typing import Array

_MAX_LAYERS = 10_000


@dataclass(frozen=True)
class GemmaConfig(TransformerSizes):
    """Sizes of a Gemma 3; the names are those of BERT where BERT has them.

    Attributes:
        num_key_value_heads: each serves several heads of queries.
        head_dim: width of a head; None: `hidden_size / num_attention_heads`.
        query_scalar: scores are divided by its square root; None: `head_dim`.
        local_layers: which layers see a window alone; a layer behind the last entry does not.
        window: tokens that a local layer sees, itself included.
        rope_base: of the rotary positions of the layers that see all.
        rope_scaling: positions of those layers are divided by it.
        local_rope_base: of the local layers.
    """

    vocab_size: int = 262144
    hidden_size: int = 640
    num_hidden_layers: int = 18
    num_attention_heads: int = 4
    intermediate_size: int = 2048
    max_position_embeddings: int = 32768
    layer_norm_eps: float = 1e-6
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    num_key_value_heads: int = 1
    head_dim: int | None = None
    query_scalar: float | None = None
    local_layers: tuple[bool, ...] = ()
    window: int = 512
    rope_base: float = 1e6
    rope_scaling: float = 1.0
    local_rope_base: float = 1e4

    def __post_init__(self) -> None:
        self._check_values()
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}. Make it a divisor."
            )
        if self.head_dim is None:
            super().__post_init__()

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def is_local(self, layer: int) -> bool:
        """Whether that layer sees a window alone."""
        return layer < len(self.local_layers) and self.local_layers[layer]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GemmaConfig:
        """From a config.json of type gemma3_text, of older or newer transformers.

        Raises:
            KeyError: a size is missing.
            ValueError: sizes do not fit each other, or the rotary positions are of another kind.
        """
        count = values["num_hidden_layers"]
        kinds = values.get("layer_types")
        if kinds is None:
            every = values.get("sliding_window_pattern") or values.get("_sliding_window_pattern", 6)
            if not isinstance(count, int) or count > _MAX_LAYERS:
                raise ValueError(f"num_hidden_layers is {count!r}, which is not a size.")
            local = tuple((k + 1) % every != 0 for k in range(count))
        else:
            local = tuple(kind == "sliding_attention" for kind in kinds)
        rope = values.get("rope_parameters") or {}
        whole = rope.get("full_attention") or values.get("rope_scaling") or {}
        kind = whole.get("rope_type", "default")
        if kind not in ("default", "linear"):
            raise ValueError(f"rope_type {kind!r} is unknown. Use default or linear.")
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            num_hidden_layers=count,
            num_attention_heads=values["num_attention_heads"],
            intermediate_size=values["intermediate_size"],
            max_position_embeddings=values["max_position_embeddings"],
            layer_norm_eps=values.get("rms_norm_eps", 1e-6),
            attention_probs_dropout_prob=values.get("attention_dropout", 0.0),
            initializer_range=values.get("initializer_range", 0.02),
            num_key_value_heads=values["num_key_value_heads"],
            head_dim=values.get("head_dim"),
            query_scalar=values.get("query_pre_attn_scalar"),
            local_layers=local,
            window=values.get("sliding_window") or 4096,
            rope_base=whole.get("rope_theta", values.get("rope_theta", 1e6)),
            rope_scaling=whole.get("factor", 1.0) if kind == "linear" else 1.0,
            local_rope_base=rope.get("sliding_attention", {}).get(
                "rope_theta", values.get("rope_local_base_freq", 1e4)
            ),
        )


class RMSNorm(nn.Module):
    """Division by the root mean square, in float32 or more, then a scale stored as its excess of 1.

    Attributes:
        epsilon: added to the mean square.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """(..., H) -> (..., H)."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        y = at_least_float32(x)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * (1 + scale)).astype(x.dtype)


def rotate(x: Array, positions: Array, base: float, scaling: float = 1.0) -> jax.Array:
    """Rotary positions (arXiv:2104.09864): turns (x_i, x_{i + D/2}) by position / base^(2 i / D).

    Args:
        x: (K, heads, D).
        positions: (K,), divided by `scaling`.
        base: slowest wavelength over 2 pi.
        scaling: at least 1.
    """
    half = x.shape[-1] // 2
    wide = at_least_float32(x)
    rates = base ** (-jnp.arange(half, dtype=wide.dtype) / half) / scaling
    angles = jnp.asarray(positions)[:, None, None] * rates
    a, b = wide[..., :half], wide[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class GemmaAttention(nn.Module):
    """Grouped-query self-attention inside each text.

    Attributes:
        config: of the encoder.
        layer: its number.
    """

    config: GemmaConfig
    layer: int

    @nn.compact
    def __call__(self, x: Array, texts: TextBatch, dropout: TextDropout) -> jax.Array:
        """(K, H) -> (K, H)."""
        config, width = self.config, self.config.head_width
        local = config.is_local(self.layer)
        base = config.local_rope_base if local else config.rope_base
        scaling = 1.0 if local else config.rope_scaling

        def heads(name: str, count: int) -> jax.Array:
            return dense(config, count * width, name, False)(x).reshape(-1, count, width)

        def turned(name: str, count: int) -> jax.Array:
            normed = RMSNorm(config.layer_norm_eps, name=f"{name}_norm")(heads(name, count))
            return rotate(normed, texts.positions, base, scaling)

        query = turned("query", config.num_attention_heads)
        key = turned("key", config.num_key_value_heads)
        value = heads("value", config.num_key_value_heads)
        mixed = attend(
            config,
            query * (config.query_scalar or width) ** -0.5,
            key,
            value,
            texts,
            dropout,
            self.layer,
            causal=True,
            window=config.window if local else None,
        )
        return dense(config, config.hidden_size, "out", False)(mixed)


class Gemma(nn.Module):
    """Gemma 3 with one feature vector per text and, if asked, its next-token loss.

    Attributes:
        config: sizes.
        feature: "last" (the reference's) or "first" token, "mean" over the text's tokens, or
            "attention": the mean beside learned weighted means.
        with_lm_loss: whether the loss is computed for texts with labels; it has no parameters of
            its own, the logits come from the word embedding.
        remat: whether the backward pass computes the insides of a layer again.
    """

    config: GemmaConfig
    feature: str = "last"
    with_lm_loss: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, texts: TextBatch, *, stream: DropoutStream | None = None) -> TextOutput:
        """Encodes texts; see `Decoder`."""
        config = self.config
        dropout = TextDropout(texts, stream)
        word = embed(config, config.vocab_size, config.hidden_size, "word_embedding")
        gelu = ACTIVATIONS["gelu_new"]

        def norm(name: str) -> RMSNorm:
            return RMSNorm(config.layer_norm_eps, name=name)

        def perceptron(x: jax.Array, k: int) -> jax.Array:
            gate = dense(config, config.intermediate_size, f"layer_{k}_gate", False)(x)
            up = dense(config, config.intermediate_size, f"layer_{k}_up", False)(x)
            return dense(config, config.hidden_size, f"layer_{k}_down", False)(gelu(gate) * up)

        def layer(k: int, x: jax.Array) -> jax.Array:
            attention = GemmaAttention(config, k, name=f"layer_{k}_attention")
            y = attention(norm(f"layer_{k}_attention_norm")(x), texts, dropout)
            x = x + norm(f"layer_{k}_attention_out_norm")(y)
            y = perceptron(norm(f"layer_{k}_perceptron_norm")(x), k)
            return x + norm(f"layer_{k}_perceptron_out_norm")(y)

        x = word(texts.ids) * config.hidden_size**0.5
        for k in range(config.num_hidden_layers):
            x = remat_block(self, functools.partial(layer, k))(x)
        x = norm("final_norm")(x)
        features = pool(x, texts, self.feature, config.num_attention_heads)
        output = TextOutput(features=features, hidden=x)
        return with_next_token_loss(output, word, texts) if self.with_lm_loss else output
