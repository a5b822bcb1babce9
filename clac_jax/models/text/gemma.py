"""Gemma 3 (arXiv:2503.19786) as a causal text encoder on packed texts, from Hugging Face's config.

Rotary positions; grouped-query attention with normalized queries and keys, most layers of which
see only a window of tokens; a gated perceptron; and a norm before and after each of the two.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.anatomy import NORM_MEAN, Anatomy, Layers, adapted_axes, norm_axes
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.models.text.attention import Heads, Sight, attend
from clac_jax.models.text.dropout import TextDropout
from clac_jax.models.text.layers import ACTIVATIONS, adapted_dense, embed
from clac_jax.models.text.lm_loss import with_next_token_loss
from clac_jax.models.text.output import TextOutput
from clac_jax.models.text.pooling import pool
from clac_jax.models.text.settings import ATTENTION_MAPS, Params, TextEncoderSettings
from clac_jax.models.text.units import pooled, pooling_axes
from clac_jax.models.torch_layout import TensorReader, Tensors
from clac_jax.typing import Array

_MAX_LAYERS = 10_000
_GROUPS = "each key serves a group of heads of the same size"
_ROTARY = "rotary positions turn the numbers of a head at rates that depend on how many there are"
_NOT_DIVIDED = (
    "the logits of its language-model loss are products with the word embedding, and its norms, "
    "which multiply by 1 + scale, cannot be divided among copies"
)


@dataclass(frozen=True)
class GemmaSettings(TextEncoderSettings):
    """Sizes of a Gemma 3.

    Attributes:
        num_key_value_heads: number of key and value heads; each serves several query heads.
        head_dim: width of a head; None: `hidden_size / num_attention_heads`.
        query_scalar: scores are divided by its square root; None: `head_dim`.
        local_layers: which layers see only a window; layers beyond the last entry see everything.
        window: number of tokens that a local layer sees, including the token itself.
        rope_base: rotary base of the layers that see all tokens.
        rope_scaling: divisor of the positions in those layers.
        local_rope_base: rotary base of the local layers.
    """

    vocab_size: int = 262144
    layer_norm_eps: float = 1e-6
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    num_key_value_heads: int = 1
    head_dim: int | None = None
    query_scalar: float | None = None
    local_layers: tuple[bool, ...] = ()
    window: int = 512
    rope_base: float = 1e6
    rope_scaling: float = 1.0
    local_rope_base: float = 1e4

    causal = True
    linear_maps = (*ATTENTION_MAPS, "gate", "up", "down")
    required = {  # noqa: RUF012
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }

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
        """The width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def is_local(self, layer: int) -> bool:
        """Whether the given layer sees only a window."""
        return layer < len(self.local_layers) and self.local_layers[layer]

    def build(  # noqa: D102
        self, feature: str = "last", with_lm_loss: bool = False, remat: bool = False
    ) -> Gemma:
        return Gemma(self, feature, with_lm_loss, remat)

    def anatomy(self, feature: str = "last", with_lm_loss: bool = False) -> Anatomy:  # noqa: D102
        attention, layer = r"layer_\d+_attention", r"layer_\d+"
        return Anatomy(
            axes={
                "word_embedding/embedding": "words -> ^hidden",
                **norm_axes(
                    rf"final_norm|{layer}_(?:attention|perceptron)(?:_out)?_norm", "hidden"
                ),
                **adapted_axes(f"{attention}/query", "hidden -> heads*keys"),
                **adapted_axes(f"{attention}/(?:key|value)", "hidden -> groups*keys"),
                **adapted_axes(f"{attention}/out", "heads*keys -> hidden"),
                **norm_axes(f"{attention}/(?:query|key)_norm", "keys"),
                **adapted_axes(rf"{layer}_(?:gate|up)", "hidden -> feed_forward"),
                **adapted_axes(rf"{layer}_down", "feed_forward -> hidden"),
                **pooling_axes("hidden"),
            },
            output=pooled(feature, "hidden"),
            even={"hidden": NORM_MEAN, "heads": _GROUPS, "groups": _GROUPS},
            fixed={"keys": _ROTARY, **({"hidden": _NOT_DIVIDED} if with_lm_loss else {})},
            rows={"words": "tokens"},
            sizes={"heads": self.num_attention_heads, "groups": self.num_key_value_heads},
            # Each norm multiplies by 1 + scale.
            layers=(Layers(r"layer_(\d+)_", "layer", {rf"{layer}_\w+_out_norm/scale": -1.0}),),
        )

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """Reads a config.json of type gemma3_text, from older or newer transformers.

        Raises:
            KeyError: a size is missing.
            ValueError: sizes are incompatible, or the kind of rotary positions is not supported.
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
        unlimited = rope.get("full_attention") or values.get("rope_scaling") or {}
        kind = unlimited.get("rope_type", "default")
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
            rope_base=unlimited.get("rope_theta", values.get("rope_theta", 1e6)),
            rope_scaling=unlimited.get("factor", 1.0) if kind == "linear" else 1.0,
            local_rope_base=rope.get("sliding_attention", {}).get(
                "rope_theta", values.get("rope_local_base_freq", 1e4)
            ),
        )

    def huggingface_params(self, tensors: Tensors) -> Params:  # noqa: D102
        hidden, wide, width = self.hidden_size, self.intermediate_size, self.head_width
        queries, keys = self.num_attention_heads * width, self.num_key_value_heads * width
        reader = TensorReader(tensors, "embed_tokens.weight")

        def dense(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
            return reader.dense(name, fan_in, fan_out, False)

        def norm(name: str, size: int = hidden) -> dict[str, np.ndarray]:
            return {"scale": reader.take(f"{name}.weight", size)}

        params: dict[str, Any] = {
            "word_embedding": {
                "embedding": reader.take("embed_tokens.weight", self.vocab_size, hidden)
            },
            "final_norm": norm("norm"),
        }
        for k in range(self.num_hidden_layers):
            layer = f"layers.{k}"
            params[f"layer_{k}_attention"] = {
                "query": dense(f"{layer}.self_attn.q_proj", hidden, queries),
                "key": dense(f"{layer}.self_attn.k_proj", hidden, keys),
                "value": dense(f"{layer}.self_attn.v_proj", hidden, keys),
                "out": dense(f"{layer}.self_attn.o_proj", queries, hidden),
                "query_norm": norm(f"{layer}.self_attn.q_norm", width),
                "key_norm": norm(f"{layer}.self_attn.k_norm", width),
            }
            for ours, theirs in (
                ("attention_norm", "input_layernorm"),
                ("attention_out_norm", "post_attention_layernorm"),
                ("perceptron_norm", "pre_feedforward_layernorm"),
                ("perceptron_out_norm", "post_feedforward_layernorm"),
            ):
                params[f"layer_{k}_{ours}"] = norm(f"{layer}.{theirs}")
            params[f"layer_{k}_gate"] = dense(f"{layer}.mlp.gate_proj", hidden, wide)
            params[f"layer_{k}_up"] = dense(f"{layer}.mlp.up_proj", hidden, wide)
            params[f"layer_{k}_down"] = dense(f"{layer}.mlp.down_proj", wide, hidden)
        return params


class RMSNorm(nn.Module):
    """Division by the root mean square, in float32 or wider, then multiplication by 1 + scale.

    Attributes:
        epsilon: added to the mean square.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
        """(..., H) -> (..., H)."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        y = at_least_float32(x)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * (1 + scale)).astype(x.dtype)


def rotate(
    x: Float[jax.Array, "tokens heads width"],
    positions: Int[Array, "tokens"],
    base: float,
    scaling: float = 1.0,
) -> Float[jax.Array, "tokens heads width"]:
    """Rotary positions (arXiv:2104.09864): rotates (x_i, x_{i + D/2}) by position / base^(2 i / D).

    Args:
        x: (K, heads, D).
        positions: (K,) token positions, divided by `scaling`.
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
        settings: settings of the encoder.
        layer: number of the layer, from 0.
    """

    settings: GemmaSettings
    layer: int

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "tokens hidden"], texts: TextBatch, dropout: TextDropout
    ) -> Float[jax.Array, "tokens hidden"]:
        """(K, H) -> (K, H)."""
        settings, width = self.settings, self.settings.head_width
        local = settings.is_local(self.layer)
        base = settings.local_rope_base if local else settings.rope_base
        scaling = 1.0 if local else settings.rope_scaling

        def per_head(name: str, count: int) -> jax.Array:
            return adapted_dense(settings, count * width, name, False)(x).reshape(-1, count, width)

        def turned(name: str, count: int) -> jax.Array:
            normed = RMSNorm(settings.layer_norm_eps, name=f"{name}_norm")(per_head(name, count))
            return rotate(normed, texts.positions, base, scaling)

        query = turned("query", settings.num_attention_heads)
        key = turned("key", settings.num_key_value_heads)
        value = per_head("value", settings.num_key_value_heads)
        heads = Heads(query * (settings.query_scalar or width) ** -0.5, key, value)
        sight = Sight(causal=True, window=settings.window if local else None)
        mixed = attend(settings, heads, texts, dropout, self.layer, sight)
        return adapted_dense(settings, settings.hidden_size, "out", False)(mixed)


class Gemma(nn.Module):
    """Gemma 3 with one feature vector per text and, optionally, its next-token loss.

    Attributes:
        settings: sizes.
        feature: "last" (the reference's) or "first" token, "mean" over the text's tokens, or
            "attention": the mean concatenated with learned weighted means.
        with_lm_loss: whether the loss is computed for texts with labels; it has no parameters of
            its own, since the logits come from the word embedding.
        remat: whether the backward pass recomputes the inside of each layer.
    """

    settings: GemmaSettings
    feature: str = "last"
    with_lm_loss: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, texts: TextBatch, *, stream: DropoutStream | None = None) -> TextOutput:
        """Encodes texts; see `Decoder`."""
        settings = self.settings
        dropout = TextDropout(texts, stream)
        word = embed(settings, settings.vocab_size, settings.hidden_size, "word_embedding")
        gelu = ACTIVATIONS["gelu_new"]

        def norm(name: str) -> RMSNorm:
            return RMSNorm(settings.layer_norm_eps, name=name)

        def perceptron(x: jax.Array, k: int) -> jax.Array:
            gate = adapted_dense(settings, settings.intermediate_size, f"layer_{k}_gate", False)(x)
            up = adapted_dense(settings, settings.intermediate_size, f"layer_{k}_up", False)(x)
            return adapted_dense(settings, settings.hidden_size, f"layer_{k}_down", False)(
                gelu(gate) * up
            )

        def layer(k: int, x: jax.Array) -> jax.Array:
            attention = GemmaAttention(settings, k, name=f"layer_{k}_attention")
            y = attention(norm(f"layer_{k}_attention_norm")(x), texts, dropout)
            x = x + norm(f"layer_{k}_attention_out_norm")(y)
            y = perceptron(norm(f"layer_{k}_perceptron_norm")(x), k)
            return x + norm(f"layer_{k}_perceptron_out_norm")(y)

        x = word(texts.ids) * settings.hidden_size**0.5
        for k in range(settings.num_hidden_layers):
            x = remat_block(self, functools.partial(layer, k))(x)
        x = norm("final_norm")(x)
        features = pool(x, texts, self.feature, settings.num_attention_heads)
        output = TextOutput(features=features, hidden=x)
        return with_next_token_loss(output, word, texts) if self.with_lm_loss else output
