"""Causal decoders on packed texts: OPT (arXiv:2205.01068, also Galactica's architecture) and GPT-2.

A left-padded row of the Hugging Face models corresponds to a packed text without padding here:
positions count from the first real token in both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax
import numpy as np

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.anatomy import NORM_MEAN, Anatomy, norm_axes
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.remat import remat_block
from clac_jax.models.text.attention import Attention
from clac_jax.models.text.dropout import TextDropout
from clac_jax.models.text.layers import ACTIVATIONS, adapted_dense, dense, embed, layer_norm
from clac_jax.models.text.lm_loss import with_next_token_loss
from clac_jax.models.text.output import TextOutput
from clac_jax.models.text.pooling import pool
from clac_jax.models.text.settings import Params, TextEncoderSettings
from clac_jax.models.text.units import (
    layer_axes,
    layers_with_norms_first,
    layers_with_norms_last,
    pooled,
    pooling_axes,
)
from clac_jax.models.torch_layout import TensorReader, Tensors

_OPT_POSITION_OFFSET = 2
"""Number of unused rows at the start of OPT's position table."""

_NO_PLACE_TO_DIVIDE = (
    "the logits of its language-model loss are products with the word embedding, and its norms "
    "have no scale by which the copies could be divided"
)


@dataclass(frozen=True)
class DecoderSettings(TextEncoderSettings):
    """Sizes and kind of a decoder; covers OPT and GPT-2, which differ in how they are stored.

    Attributes:
        activation: "relu", "gelu" or "gelu_new" (tanh approximation).
        norm_first: whether layer norm comes before attention and perceptron, or after their sum.
        final_norm: whether one more layer norm follows the last block.
        use_bias: whether the linear maps have a bias.
        norm_affine: whether the layer norms have a scale and a bias.
        embedding_size: width of the word embedding and of the output; projected to `hidden_size`
            and back if it differs.
        embedding_dropout_prob: dropout rate after the sum of both embeddings.
    """

    vocab_size: int = 50272
    activation: str = "relu"
    norm_first: bool = True
    final_norm: bool = True
    use_bias: bool = True
    norm_affine: bool = True
    embedding_size: int | None = None
    embedding_dropout_prob: float = 0.0

    causal = True
    can_be_narrowed = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} is unknown. Use one of {', '.join(ACTIVATIONS)}."
            )

    def build(  # noqa: D102
        self, feature: str = "last", with_lm_loss: bool = False, remat: bool = False
    ) -> Decoder:
        return Decoder(self, feature, with_lm_loss, remat)

    def anatomy(self, feature: str = "last", with_lm_loss: bool = False) -> Anatomy:  # noqa: D102
        words = "embedded" if self.embedding_size else "hidden"
        last_norm = (
            "final_norm" if self.final_norm else f"layer_{self.num_hidden_layers - 1}_output_norm"
        )
        given, divided, fixed = words, {}, {}
        if with_lm_loss:
            # The logits are products with the word embedding, which holds equal copies.
            given = f"={words}"
            if not self.embedding_size and self.norm_affine:
                divided = {f"{last_norm}/(?:scale|bias)": "hidden ->"}
            elif not self.embedding_size:
                fixed = {"hidden": _NO_PLACE_TO_DIVIDE}
        norms = r"final_norm|layer_\d+_(?:attention|output)_norm"
        layers = (
            layers_with_norms_first()
            if self.norm_first
            else layers_with_norms_last(self.layer_norm_eps)
        )
        return Anatomy(
            axes={
                **divided,
                "word_embedding/embedding": f"words -> {words}",
                "position_embedding/embedding": "positions -> hidden",
                "project_in/kernel": "embedded -> hidden",
                "project_out/kernel": f"hidden -> {given}",
                **norm_axes(norms, "hidden"),
                **layer_axes(),
                **pooling_axes(given),
            },
            output=pooled(feature, given),
            even={"hidden": NORM_MEAN},
            fixed=fixed,
            rows={"words": "tokens", "positions": "mean"},
            sizes={"heads": self.num_attention_heads},
            layers=(layers,),
        )

    def with_dropout(self, rate: float) -> Self:  # noqa: D102
        embedding = rate if self.embedding_dropout_prob else 0.0
        return dataclasses.replace(super().with_dropout(rate), embedding_dropout_prob=embedding)


@dataclass(frozen=True)
class OptSettings(DecoderSettings):
    """Sizes of an OPT or a Galactica."""

    required = {"tie_word_embeddings": True}  # noqa: RUF012

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:  # noqa: D102
        norm_first = values.get("do_layer_norm_before", True)
        removed = values.get("_remove_final_layer_norm", False)
        size = values.get("word_embed_proj_dim", values["hidden_size"])
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            num_hidden_layers=values["num_hidden_layers"],
            num_attention_heads=values["num_attention_heads"],
            intermediate_size=values["ffn_dim"],
            max_position_embeddings=values["max_position_embeddings"],
            hidden_dropout_prob=values.get("dropout", 0.1),
            attention_probs_dropout_prob=values.get("attention_dropout", 0.0),
            initializer_range=values.get("init_std", 0.02),
            activation=values.get("activation_function", "relu"),
            norm_first=norm_first,
            final_norm=norm_first and not removed,
            use_bias=values.get("enable_bias", True),
            norm_affine=values.get("layer_norm_elementwise_affine", True),
            embedding_size=None if size == values["hidden_size"] else size,
        )

    def huggingface_params(self, tensors: Tensors) -> Params:  # noqa: D102
        hidden, wide, bias = self.hidden_size, self.intermediate_size, self.use_bias
        word_size = self.embedding_size or hidden
        reader = TensorReader(tensors, "decoder.embed_tokens.weight")

        def norm(name: str) -> dict[str, np.ndarray]:
            return reader.norm(name, hidden) if self.norm_affine else {}

        rows = self.max_position_embeddings + _OPT_POSITION_OFFSET
        positions = reader.take("decoder.embed_positions.weight", rows, hidden)
        params: dict[str, Any] = {
            "word_embedding": {
                "embedding": reader.take("decoder.embed_tokens.weight", self.vocab_size, word_size)
            },
            "position_embedding": {"embedding": positions[_OPT_POSITION_OFFSET:]},
        }
        if self.embedding_size:
            params["project_in"] = reader.dense("decoder.project_in", word_size, hidden, False)
            params["project_out"] = reader.dense("decoder.project_out", hidden, word_size, False)
        for k in range(self.num_hidden_layers):
            layer = f"decoder.layers.{k}"
            params[f"layer_{k}_attention"] = {
                "query": reader.dense(f"{layer}.self_attn.q_proj", hidden, hidden, bias),
                "key": reader.dense(f"{layer}.self_attn.k_proj", hidden, hidden, bias),
                "value": reader.dense(f"{layer}.self_attn.v_proj", hidden, hidden, bias),
                "out": reader.dense(f"{layer}.self_attn.out_proj", hidden, hidden, bias),
            }
            params[f"layer_{k}_attention_norm"] = norm(f"{layer}.self_attn_layer_norm")
            params[f"layer_{k}_intermediate"] = reader.dense(f"{layer}.fc1", hidden, wide, bias)
            params[f"layer_{k}_output"] = reader.dense(f"{layer}.fc2", wide, hidden, bias)
            params[f"layer_{k}_output_norm"] = norm(f"{layer}.final_layer_norm")
        if self.final_norm:
            params["final_norm"] = norm("decoder.final_layer_norm")
        return {name: value for name, value in params.items() if value}


@dataclass(frozen=True)
class Gpt2Settings(DecoderSettings):
    """Sizes of a GPT-2, whose linear maps are stored with the input axis first."""

    activation: str = "gelu_new"
    embedding_dropout_prob: float = 0.1

    required = {  # noqa: RUF012
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:  # noqa: D102
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["n_embd"],
            num_hidden_layers=values["n_layer"],
            num_attention_heads=values["n_head"],
            intermediate_size=values.get("n_inner") or 4 * values["n_embd"],
            max_position_embeddings=values["n_positions"],
            layer_norm_eps=values.get("layer_norm_epsilon", 1e-5),
            hidden_dropout_prob=values.get("resid_pdrop", 0.1),
            attention_probs_dropout_prob=values.get("attn_pdrop", 0.1),
            embedding_dropout_prob=values.get("embd_pdrop", 0.1),
            initializer_range=values.get("initializer_range", 0.02),
            activation=values.get("activation_function", "gelu_new"),
        )

    def huggingface_params(self, tensors: Tensors) -> Params:  # noqa: D102
        hidden, wide = self.hidden_size, self.intermediate_size
        reader = TensorReader(tensors, "wte.weight")

        def dense(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
            kernel = reader.take(f"{name}.weight", fan_in, fan_out)
            return {"kernel": kernel, "bias": reader.take(f"{name}.bias", fan_out)}

        params: dict[str, Any] = {
            "word_embedding": {"embedding": reader.take("wte.weight", self.vocab_size, hidden)},
            "position_embedding": {
                "embedding": reader.take("wpe.weight", self.max_position_embeddings, hidden)
            },
            "final_norm": reader.norm("ln_f", hidden),
        }
        for k in range(self.num_hidden_layers):
            joint = dense(f"h.{k}.attn.c_attn", hidden, 3 * hidden)
            parts = {name: np.split(value, 3, axis=-1) for name, value in joint.items()}
            attention = {
                name: {leaf: np.ascontiguousarray(values[j]) for leaf, values in parts.items()}
                for j, name in enumerate(("query", "key", "value"))
            }
            attention["out"] = dense(f"h.{k}.attn.c_proj", hidden, hidden)
            params[f"layer_{k}_attention"] = attention
            params[f"layer_{k}_attention_norm"] = reader.norm(f"h.{k}.ln_1", hidden)
            params[f"layer_{k}_intermediate"] = dense(f"h.{k}.mlp.c_fc", hidden, wide)
            params[f"layer_{k}_output"] = dense(f"h.{k}.mlp.c_proj", wide, hidden)
            params[f"layer_{k}_output_norm"] = reader.norm(f"h.{k}.ln_2", hidden)
        return params


class Decoder(nn.Module):
    """A causal decoder with one feature vector per text and, optionally, its next-token loss.

    Attributes:
        settings: sizes and kind.
        feature: "last" (the reference's) or "first" token, "mean" over the text's tokens, or
            "attention": the mean concatenated with learned weighted means.
        with_lm_loss: whether the loss is computed for texts with labels; it has no parameters of
            its own, since the logits come from the word embedding.
        remat: whether the backward pass recomputes the inside of each layer.
    """

    settings: DecoderSettings
    feature: str = "last"
    with_lm_loss: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, texts: TextBatch, *, stream: DropoutStream | None = None) -> TextOutput:
        """Encodes texts.

        Args:
            texts: packed texts, each with at most `max_position_embeddings` tokens; `labels` are
                the tokens themselves, -100 for tokens that are not to be predicted.
            stream: random stream for dropout; None disables dropout.

        Returns:
            TextOutput; features of padding rows are finite but meaningless.
        """
        settings = self.settings
        rate = settings.hidden_dropout_prob
        dropout = TextDropout(texts, stream)
        word_size = settings.embedding_size or settings.hidden_size
        word = embed(settings, settings.vocab_size, word_size, "word_embedding")
        positions = embed(
            settings, settings.max_position_embeddings, settings.hidden_size, "position_embedding"
        )

        def norm(name: str) -> nn.LayerNorm:
            return layer_norm(settings, name, settings.norm_affine)

        def layer(k: int, x: jax.Array) -> jax.Array:
            before, after = norm(f"layer_{k}_attention_norm"), norm(f"layer_{k}_output_norm")
            attention = Attention(settings, True, settings.use_bias, name=f"layer_{k}_attention")
            y = attention(before(x) if settings.norm_first else x, texts, dropout, 3 * k + 1)
            x = x + dropout.hidden(y, rate, 3 * k + 2)
            x = x if settings.norm_first else before(x)
            y = after(x) if settings.norm_first else x
            wide = adapted_dense(
                settings, settings.intermediate_size, f"layer_{k}_intermediate", settings.use_bias
            )
            back = adapted_dense(
                settings, settings.hidden_size, f"layer_{k}_output", settings.use_bias
            )
            y = back(ACTIVATIONS[settings.activation](wide(y)))
            x = x + dropout.hidden(y, rate, 3 * k + 3)
            return x if settings.norm_first else after(x)

        x = word(texts.ids)
        if settings.embedding_size:
            x = dense(settings, settings.hidden_size, "project_in", use_bias=False)(x)
        x = dropout.hidden(x + positions(texts.positions), settings.embedding_dropout_prob, 0)
        for k in range(settings.num_hidden_layers):
            x = remat_block(self, functools.partial(layer, k))(x)
        if settings.final_norm:
            x = norm("final_norm")(x)
        if settings.embedding_size:
            x = dense(settings, settings.embedding_size, "project_out", use_bias=False)(x)

        features = pool(x, texts, self.feature, settings.num_attention_heads)
        output = TextOutput(features=features, hidden=x)
        return with_next_token_loss(output, word, texts) if self.with_lm_loss else output
