"""Causal decoders on packed texts: OPT (arXiv:2205.01068, also Galactica's architecture) and GPT-2.

A left-padded row of the Hugging Face models is here a packed text without padding: positions count
from the first real token in both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.remat import remat_block
from clac_jax.models.text.encoder import (
    ACTIVATIONS,
    Attention,
    TextDropout,
    TextOutput,
    TransformerSizes,
    dense,
    embed,
    layer_norm,
    lm_loss_per_view,
    pool,
)
from clac_jax.text.sentences import IGNORED_LABEL
from clac_jax.typing import Array


@dataclass(frozen=True)
class DecoderConfig(TransformerSizes):
    """Sizes and kind of a decoder; the names are those of BERT where BERT has them.

    Attributes:
        activation: "relu", "gelu" or "gelu_new" (by tanh).
        norm_first: whether layer norm comes before attention and perceptron, or after their sum.
        final_norm: whether one more follows the last block.
        use_bias: in the linear maps.
        norm_affine: whether the layer norms have a scale and a bias.
        embedding_size: width of the word embedding and of the output; projected to `hidden_size`
            and back where it differs.
        embedding_dropout_prob: after the sum of both embeddings.
    """

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    activation: str = "relu"
    norm_first: bool = True
    final_norm: bool = True
    use_bias: bool = True
    norm_affine: bool = True
    embedding_size: int | None = None
    embedding_dropout_prob: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} is unknown. Use one of {', '.join(ACTIVATIONS)}."
            )

    def with_dropout(self, rate: float) -> Self:  # noqa: D102
        embedding = rate if self.embedding_dropout_prob else 0.0
        return dataclasses.replace(super().with_dropout(rate), embedding_dropout_prob=embedding)

    @classmethod
    def from_opt(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """From the config.json of an OPT or a Galactica.

        Raises:
            KeyError: a size is missing.
            ValueError: sizes do not fit each other.
        """
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

    @classmethod
    def from_gpt2(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """From the config.json of a GPT-2.

        Raises:
            KeyError: a size is missing.
            ValueError: sizes do not fit each other.
        """
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


class Decoder(nn.Module):
    """A causal decoder with one feature vector per text and, if asked, its next-token loss.

    Attributes:
        config: sizes and kind.
        feature: "last" (the reference's) or "first" token, "mean" over the text's tokens, or
            "attention": the mean beside learned weighted means.
        with_lm_loss: whether the loss is computed for texts with labels; it has no parameters of
            its own, the logits come from the word embedding.
        remat: whether the backward pass computes the insides of a layer again.
    """

    config: DecoderConfig
    feature: str = "last"
    with_lm_loss: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, texts: TextBatch, *, stream: DropoutStream | None = None) -> TextOutput:
        """Encodes texts.

        Args:
            texts: packed texts, each at most `max_position_embeddings` tokens; `labels` are the
                tokens themselves, -100 where a token is not to be predicted.
            stream: randomness of dropout; None drops nothing.

        Returns:
            TextOutput; features of padding rows are finite and meaningless.
        """
        config = self.config
        rate = config.hidden_dropout_prob
        dropout = TextDropout(texts, stream)
        word_size = config.embedding_size or config.hidden_size
        word = embed(config, config.vocab_size, word_size, "word_embedding")
        positions = embed(
            config, config.max_position_embeddings, config.hidden_size, "position_embedding"
        )

        def norm(name: str) -> nn.LayerNorm:
            return layer_norm(config, name, config.norm_affine)

        def layer(k: int, x: jax.Array) -> jax.Array:
            before, after = norm(f"layer_{k}_attention_norm"), norm(f"layer_{k}_output_norm")
            attention = Attention(config, True, config.use_bias, name=f"layer_{k}_attention")
            y = attention(before(x) if config.norm_first else x, texts, dropout, 3 * k + 1)
            x = x + dropout.hidden(y, rate, 3 * k + 2)
            x = x if config.norm_first else before(x)
            y = after(x) if config.norm_first else x
            wide = dense(
                config, config.intermediate_size, f"layer_{k}_intermediate", config.use_bias
            )
            back = dense(config, config.hidden_size, f"layer_{k}_output", config.use_bias)
            y = back(ACTIVATIONS[config.activation](wide(y)))
            x = x + dropout.hidden(y, rate, 3 * k + 3)
            return x if config.norm_first else after(x)

        x = word(texts.ids)
        if config.embedding_size:
            x = dense(config, config.hidden_size, "project_in", use_bias=False)(x)
        x = dropout.hidden(x + positions(texts.positions), config.embedding_dropout_prob, 0)
        for k in range(config.num_hidden_layers):
            x = remat_block(self, functools.partial(layer, k))(x)
        if config.final_norm:
            x = norm("final_norm")(x)
        if config.embedding_size:
            x = dense(config, config.embedding_size, "project_out", use_bias=False)(x)

        features = pool(x, texts, self.feature, config.num_attention_heads)
        output = TextOutput(features=features, hidden=x)
        return with_next_token_loss(output, word, texts) if self.with_lm_loss else output


def with_next_token_loss(output: TextOutput, word: nn.Embed, texts: TextBatch) -> TextOutput:
    """The output with the loss of the next tokens, whose logits the word embedding gives.

    Unchanged where the texts have no labels.
    """
    if texts.labels is None:
        return output
    logits = output.hidden @ word.embedding.T.astype(output.hidden.dtype)
    loss_sum, num_tokens = lm_loss_per_view(logits, texts, next_token_labels(texts))
    return output.replace(lm_loss_sum=loss_sum, lm_num_tokens=num_tokens)


def next_token_labels(texts: TextBatch) -> Array:
    """(K,) what each token place predicts: the label of the next token of its text, or -100."""
    text, labels = jnp.asarray(texts.text_index), jnp.asarray(texts.labels)
    follows = jnp.roll(text, -1) == text
    follows = follows.at[-1].set(False)
    return jnp.where(follows, jnp.roll(labels, -1), IGNORED_LABEL)
