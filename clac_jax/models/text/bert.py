"""BERT on packed texts (Devlin et al., arXiv:1810.04805; the Hugging Face architecture).

Post-layer-norm blocks, exact GELU, learned absolute positions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.anatomy import NORM_MEAN, Anatomy, dense_axes, norm_axes
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.remat import remat_block
from clac_jax.models.text.attention import Attention
from clac_jax.models.text.dropout import TextDropout
from clac_jax.models.text.layers import adapted_dense, dense, embed, exact_gelu, layer_norm
from clac_jax.models.text.lm_loss import lm_loss_per_view
from clac_jax.models.text.numbers import NumberEmbedding
from clac_jax.models.text.output import TextOutput
from clac_jax.models.text.pooling import pool
from clac_jax.models.text.settings import Params, TextEncoderSettings
from clac_jax.models.text.stated import StatedComposition
from clac_jax.models.text.units import (
    layer_axes,
    layers_with_norms_last,
    pooled,
    pooling_axes,
)
from clac_jax.models.torch_layout import TensorReader, Tensors
from clac_jax.typing import Array


@dataclass(frozen=True)
class BertSettings(TextEncoderSettings):
    """Sizes of a BERT."""

    vocab_size: int = 30522
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 2

    reads_facts = True
    can_be_narrowed = True
    required = {"hidden_act": "gelu", "position_embedding_type": "absolute"}  # noqa: RUF012

    def build(  # noqa: D102
        self, feature: str = "first", with_lm_loss: bool = False, remat: bool = False
    ) -> Bert:
        return Bert(self, feature, with_lm_loss, remat)

    def anatomy(self, feature: str = "mean", with_lm_loss: bool = False) -> Anatomy:  # noqa: D102
        del with_lm_loss
        return Anatomy(
            axes={
                "word_embedding/embedding": "words -> hidden",
                "position_embedding/embedding": "positions -> hidden",
                "type_embedding/embedding": "_ -> hidden",
                **norm_axes(r"embedding_norm|layer_\d+_(?:attention|output)_norm", "hidden"),
                **layer_axes(),
                **dense_axes(r"numbers_\d+/hidden", "_ -> numbers"),
                **dense_axes(r"numbers_\d+/out", "numbers -> hidden"),
                r"numbers_\d+/integers/embedding": "_ -> hidden",
                **dense_axes("compositions/hidden", "_ -> compositions"),
                **dense_axes("compositions/out", f"compositions -> {pooled(feature, 'hidden')}"),
                **pooling_axes("hidden"),
                **dense_axes("lm_head/transform", "hidden -> hidden"),
                # The transposed word embedding, which multiplies what the norm gives, holds equal
                # copies; so the norm is what is divided.
                "lm_head/norm/(?:scale|bias)": "hidden ->",
                "lm_head/bias": "-> words",
            },
            output=pooled(feature, "hidden"),
            even={"hidden": NORM_MEAN},
            rows={"words": "tokens", "positions": "mean"},
            sizes={"heads": self.num_attention_heads},
            layers=(layers_with_norms_last(self.layer_norm_eps),),
        )

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """Takes the known keys; the other keys of a config.json do not affect the encoder."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def huggingface_params(self, tensors: Tensors) -> Params:  # noqa: D102
        hidden, wide = self.hidden_size, self.intermediate_size
        reader = TensorReader(tensors, "embeddings.word_embeddings.weight")

        def embedding(kind: str, count: int) -> dict[str, np.ndarray]:
            return {"embedding": reader.take(f"embeddings.{kind}_embeddings.weight", count, hidden)}

        params: dict[str, Any] = {
            "word_embedding": embedding("word", self.vocab_size),
            "position_embedding": embedding("position", self.max_position_embeddings),
            "type_embedding": embedding("token_type", self.type_vocab_size),
            "embedding_norm": reader.norm("embeddings.LayerNorm", hidden),
        }
        for k in range(self.num_hidden_layers):
            layer = f"encoder.layer.{k}"
            params[f"layer_{k}_attention"] = {
                "query": reader.dense(f"{layer}.attention.self.query", hidden, hidden),
                "key": reader.dense(f"{layer}.attention.self.key", hidden, hidden),
                "value": reader.dense(f"{layer}.attention.self.value", hidden, hidden),
                "out": reader.dense(f"{layer}.attention.output.dense", hidden, hidden),
            }
            params[f"layer_{k}_attention_norm"] = reader.norm(
                f"{layer}.attention.output.LayerNorm", hidden
            )
            params[f"layer_{k}_intermediate"] = reader.dense(
                f"{layer}.intermediate.dense", hidden, wide
            )
            params[f"layer_{k}_output"] = reader.dense(f"{layer}.output.dense", wide, hidden)
            params[f"layer_{k}_output_norm"] = reader.norm(f"{layer}.output.LayerNorm", hidden)
        if "cls.predictions.bias" in tensors:
            params["lm_head"] = {
                "transform": reader.dense("cls.predictions.transform.dense", hidden, hidden),
                "norm": reader.norm("cls.predictions.transform.LayerNorm", hidden),
                "bias": reader.take("cls.predictions.bias", self.vocab_size),
            }
        return params


class MaskedLmHead(nn.Module):
    """Logits over the vocabulary; the last map is the transposed word embedding."""

    settings: BertSettings

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "*tokens hidden"],
        word_embedding: Float[Array, "vocabulary hidden"],
    ) -> Float[jax.Array, "*tokens vocabulary"]:
        """(..., H), (vocabulary, H) -> (..., vocabulary)."""
        settings = self.settings
        x = exact_gelu(dense(settings, settings.hidden_size, "transform")(x))
        x = layer_norm(settings, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (settings.vocab_size,))
        return x @ word_embedding.T.astype(x.dtype) + bias.astype(x.dtype)


class Bert(nn.Module):
    """BERT encoder with one feature vector per text and, optionally, a masked-language-model loss.

    Attributes:
        settings: sizes.
        feature: "first" or "last" token, "mean" over the text's tokens, or "attention": the mean
            concatenated with learned weighted means.
        with_lm_loss: whether the head of the masked-language-model loss exists.
        remat: whether the backward pass recomputes the inside of each layer.
    """

    settings: BertSettings
    feature: str = "first"
    with_lm_loss: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        texts: TextBatch,
        *,
        stream: DropoutStream | None = None,
        token_types: Int[Array, "tokens"] | None = None,
    ) -> TextOutput:
        """Encodes texts.

        Args:
            texts: packed texts, each with at most ``max_position_embeddings`` tokens.
            stream: random stream for dropout; None disables dropout.
            token_types: (K,) int32, zeros by default.

        Returns:
            TextOutput; features of padding rows are finite but meaningless.
        """
        settings = self.settings
        rate = settings.hidden_dropout_prob

        def embedding(count: int, name: str) -> nn.Embed:
            return embed(settings, count, settings.hidden_size, name)

        dropout = TextDropout(texts, stream)
        word = embedding(settings.vocab_size, "word_embedding")
        positions = embedding(settings.max_position_embeddings, "position_embedding")
        types = embedding(settings.type_vocab_size, "type_embedding")
        x = word(texts.ids) + positions(texts.positions)
        x = x + (types(jnp.zeros((), jnp.int32)) if token_types is None else types(token_types))
        x = dropout.hidden(layer_norm(settings, "embedding_norm")(x), rate, 0)

        def layer(k: int, x: jax.Array) -> jax.Array:
            y = Attention(settings, name=f"layer_{k}_attention")(x, texts, dropout, 3 * k + 1)
            y = dropout.hidden(y, rate, 3 * k + 2)
            x = layer_norm(settings, f"layer_{k}_attention_norm")(x + y)
            y = adapted_dense(settings, settings.intermediate_size, f"layer_{k}_intermediate")(x)
            y = adapted_dense(settings, settings.hidden_size, f"layer_{k}_output")(exact_gelu(y))
            y = dropout.hidden(y, rate, 3 * k + 3)
            x = layer_norm(settings, f"layer_{k}_output_norm")(x + y)
            return x

        for k in range(settings.num_hidden_layers + 1):
            if k in settings.numbers_at:
                x = NumberEmbedding(settings, name=f"numbers_{k}")(x, texts)
            if k < settings.num_hidden_layers:
                x = remat_block(self, functools.partial(layer, k))(x)

        features = pool(x, texts, self.feature, settings.num_attention_heads)
        if settings.add_compositions:
            stated = StatedComposition(features.shape[1], name="compositions")
            features = features + stated(texts)
        output = TextOutput(features=features, hidden=x)
        if self.with_lm_loss and texts.labels is not None:
            logits = MaskedLmHead(settings, name="lm_head")(x, word.embedding)
            loss_sum, num_tokens = lm_loss_per_view(logits, texts, jnp.asarray(texts.labels))
            output = dataclasses.replace(output, lm_loss_sum=loss_sum, lm_num_tokens=num_tokens)
        return output
