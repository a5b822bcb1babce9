"""BERT on packed texts (Devlin et al., arXiv:1810.04805; the Hugging Face architecture).

Post-layer-norm blocks, exact GELU, learned absolute positions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.remat import remat_block
from clac_jax.models.text.encoder import (
    Attention,
    TextDropout,
    TextOutput,
    TransformerSizes,
    dense,
    embed,
    exact_gelu,
    layer_norm,
    lm_loss_per_view,
    pool,
)
from clac_jax.typing import Array


@dataclass(frozen=True)
class BertConfig(TransformerSizes):
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

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> BertConfig:
        """Takes the known keys; the others of a Hugging Face config do not concern the encoder."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class MaskedLmHead(nn.Module):
    """Logits over the vocabulary; the last map is the transposed word embedding."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, word_embedding: Array) -> jax.Array:
        """(..., H), (vocabulary, H) -> (..., vocabulary)."""
        config = self.config
        x = exact_gelu(dense(config, config.hidden_size, "transform")(x))
        x = layer_norm(config, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        return x @ word_embedding.T.astype(x.dtype) + bias.astype(x.dtype)


class Bert(nn.Module):
    """BERT encoder with one feature vector per text and, if asked, a masked-language-model loss.

    Attributes:
        config: sizes.
        feature: "first" or "last" token, "mean" over the text's tokens, or "attention": the mean
            beside learned weighted means.
        with_lm_head: whether the head exists.
        remat: whether the backward pass computes the insides of a layer again.
    """

    config: BertConfig
    feature: str = "first"
    with_lm_head: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        texts: TextBatch,
        *,
        stream: DropoutStream | None = None,
        token_types: Array | None = None,
    ) -> TextOutput:
        """Encodes texts.

        Args:
            texts: packed texts, each at most ``max_position_embeddings`` tokens.
            stream: randomness of dropout; None drops nothing.
            token_types: (K,) int32, zeros by default.

        Returns:
            TextOutput; features of padding rows are finite and meaningless.
        """
        config = self.config
        rate = config.hidden_dropout_prob

        def embedding(count: int, name: str) -> nn.Embed:
            return embed(config, count, config.hidden_size, name)

        dropout = TextDropout(texts, stream)
        word = embedding(config.vocab_size, "word_embedding")
        positions = embedding(config.max_position_embeddings, "position_embedding")
        types = embedding(config.type_vocab_size, "type_embedding")
        x = word(texts.ids) + positions(texts.positions)
        x = x + (types(jnp.zeros((), jnp.int32)) if token_types is None else types(token_types))
        x = dropout.hidden(layer_norm(config, "embedding_norm")(x), rate, 0)

        def layer(k: int, x: jax.Array) -> jax.Array:
            y = Attention(config, name=f"layer_{k}_attention")(x, texts, dropout, 3 * k + 1)
            y = dropout.hidden(y, rate, 3 * k + 2)
            x = layer_norm(config, f"layer_{k}_attention_norm")(x + y)
            y = dense(config, config.intermediate_size, f"layer_{k}_intermediate")(x)
            y = dense(config, config.hidden_size, f"layer_{k}_output")(exact_gelu(y))
            y = dropout.hidden(y, rate, 3 * k + 3)
            return layer_norm(config, f"layer_{k}_output_norm")(x + y)

        for k in range(config.num_hidden_layers):
            x = remat_block(self, functools.partial(layer, k))(x)

        features = pool(x, texts, self.feature, config.num_attention_heads)
        output = TextOutput(features=features, hidden=x)
        if self.with_lm_head and texts.labels is not None:
            logits = MaskedLmHead(config, name="lm_head")(x, word.embedding)
            loss_sum, num_tokens = lm_loss_per_view(logits, texts, jnp.asarray(texts.labels))
            output = output.replace(lm_loss_sum=loss_sum, lm_num_tokens=num_tokens)
        return output
