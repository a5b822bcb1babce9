"""The language-model loss of packed texts."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.precision import at_least_float32
from clac_jax.models.text.output import TextOutput
from clac_jax.text.sentences import IGNORED_LABEL


def lm_loss_per_view(
    logits: Float[jax.Array, "tokens vocabulary"],
    texts: TextBatch,
    labels: Int[jax.Array, "tokens"],
) -> tuple[Float[jax.Array, "views"], Int[jax.Array, "views"]]:
    """Summed cross entropy and number of labelled tokens of each view.

    Args:
        logits: (K, vocabulary).
        texts: the packed texts.
        labels: (K,) int32, target at each position; -100: none.

    Returns:
        (V,) summed loss and (V,) number of labelled tokens.
    """
    labelled = labels != IGNORED_LABEL
    log_probabilities = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
    target = jnp.where(labelled, labels, 0)
    losses = -jnp.take_along_axis(log_probabilities, target[:, None], axis=-1)[:, 0]
    rows_per_view = texts.lengths.shape[0] // texts.num_views
    view = texts.text_index // rows_per_view
    counted = labelled[None, :] & (view[None, :] == jnp.arange(texts.num_views)[:, None])
    return jnp.sum(jnp.where(counted, losses, 0), axis=1), jnp.sum(counted, axis=1)


def with_next_token_loss(output: TextOutput, word: nn.Embed, texts: TextBatch) -> TextOutput:
    """The output plus the next-token loss, with logits from the word embedding.

    Unchanged if the texts have no labels.
    """
    if texts.labels is None:
        return output
    logits = output.hidden @ word.embedding.T.astype(output.hidden.dtype)
    loss_sum, num_tokens = lm_loss_per_view(logits, texts, next_token_labels(texts))
    return dataclasses.replace(output, lm_loss_sum=loss_sum, lm_num_tokens=num_tokens)


def next_token_labels(texts: TextBatch) -> Int[jax.Array, "tokens"]:
    """(K,) target at each token position: the label of the next token of its text, or -100."""
    text, labels = jnp.asarray(texts.text_index), jnp.asarray(texts.labels)
    follows = jnp.roll(text, -1) == text
    follows = follows.at[-1].set(False)
    return jnp.where(follows, jnp.roll(labels, -1), IGNORED_LABEL)
