"""Contrastive losses over the global batch.

The reference contrasts within one device; here every example is contrasted with the global batch,
however many devices hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Key

from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.build import pair_loss_of
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch
from clac_jax.models.losses.infonce import InfoNCE
from clac_jax.models.losses.settings import PairLoss
from clac_jax.typing import Array


@dataclass(frozen=True)
class LossOptions:
    """The choice of loss.

    Attributes:
        pair: loss of a pair of views.
        lm_weight: weight of the language-model loss.
        structure_weight: weight of the loss of the structure predicted from the joint space.
    """

    pair: PairLoss = field(default_factory=InfoNCE)
    lm_weight: float = 0.0
    structure_weight: float = 0.0


@runtime_checkable
class Loss(Protocol):
    """The loss of a step: (output, batch) -> this device's share of the loss, and its terms."""

    def __call__(
        self,
        output: Any,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: Key[jax.Array, ""] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Arguments and results as for `clac_loss`."""


def make_loss(options: LossOptions = LossOptions()) -> Loss:
    """`clac_loss` with fixed options."""

    def loss(
        output: Any,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: Key[jax.Array, ""] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return clac_loss(output, batch.example_mask, options, axis_name=axis_name, key=key)

    return loss


def loss_options(config: ml_collections.ConfigDict) -> LossOptions:
    """The loss options that a config specifies."""
    return LossOptions(pair_loss_of(config.loss), config.lm_weight, config.structure_weight)


def clac_loss(
    output: ClacOutput,
    example_mask: Bool[Array, "examples"],
    options: LossOptions = LossOptions(),
    *,
    axis_name: str | None = None,
    key: Key[jax.Array, ""] | None = None,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """The training loss and its terms.

    Args:
        output: model output for this device's examples.
        example_mask: (B,) bool, False = padding: neither scored nor used as a negative.
        options: which loss to compute.
        axis_name: mapped axis of the devices that share a batch; None: this is the global batch.
        key: PRNG key of the step, the same on every device, for losses that sample their
            negatives. None: their mean over all samples.

    Returns:
        This device's share of the loss, (): the sum over devices is the loss, so gradients must be
        summed over devices too. Also the terms, each () and the same on every device: `loss`,
        `cross_modal_loss`, `visual_loss`, `textual_loss`, `prior_loss`, `lm_loss` (those that
        exist), and `acc_top1`, `acc_top3` of the text given the crystal within the global batch,
        for the first views.
    """
    batch = GlobalBatch(jnp.asarray(example_mask), axis_name, key)
    shares = loss_shares(output, batch, options)
    return shares["loss"], {name: batch.total(share) for name, share in shares.items()}


def loss_shares(
    output: ClacOutput, batch: GlobalBatch, options: LossOptions
) -> dict[str, Float[jax.Array, ""]]:
    """This device's shares of the terms that `clac_loss` returns; each () and summed over devices.

    Args:
        output: model output for this device's examples.
        batch: this device's rows among the columns of all devices.
        options: which loss to compute.
    """

    def contrast(pair: ProjectedPair) -> jax.Array:
        """Sum over all pairs of a left and a right view."""
        total = jnp.zeros((), pair.left.dtype)
        columns = [(view, batch.gather(view)) for view in pair.right]
        for left in pair.left:
            rows = left, batch.gather(left)
            for right in columns:
                total = total + options.pair(batch, pair, rows, right)
        return total

    shares = {"cross_modal_loss": contrast(output.cross)}
    if output.visual is not None:
        shares["visual_loss"] = contrast(output.visual)
    if output.textual is not None:
        shares["textual_loss"] = contrast(output.textual)
    loss = sum(shares.values(), start=jnp.zeros(()))
    priors = [x for x in (output.crystal_prior, output.text_prior) if x is not None]
    if priors:
        shares["prior_loss"] = sum((batch.mean(prior) for prior in priors), start=jnp.zeros(()))
        share = options.pair.share_of_priors
        loss = (1 - share) * loss + share * shares["prior_loss"]
    if output.structure_loss is not None:
        shares["structure_loss"] = batch.mean(output.structure_loss)
        loss = loss + options.structure_weight * shares["structure_loss"]
    if output.lm_loss_sum is not None and output.lm_num_tokens is not None:
        num_tokens = jnp.maximum(batch.total(output.lm_num_tokens), 1)
        shares["lm_loss"] = jnp.mean(output.lm_loss_sum / num_tokens)
        loss = loss + options.lm_weight * shares["lm_loss"]
    shares["loss"] = loss
    shares |= batch.accuracies(output.cross)
    return shares


def example_terms(
    output: ClacOutput,
    example_mask: Bool[Array, "examples"],
    options: LossOptions = LossOptions(),
    *,
    axis_name: str | None = None,
    key: Key[jax.Array, ""] | None = None,
) -> dict[str, Float[jax.Array, "examples"]]:
    """The terms of the loss by example, each (B,), whose mean over all examples is the term.

    Arguments as for `clac_loss`. `lm_loss` is a mean over tokens and has no part by example: it is
    left out, also in `loss`.
    """
    mask = jnp.asarray(example_mask)

    def shares(weights: jax.Array) -> dict[str, jax.Array]:
        batch = GlobalBatch(mask, axis_name, key, weights)
        contrasts = output.replace(lm_loss_sum=None)  # type: ignore[attr-defined]  # Flax's
        return loss_shares(contrasts, batch, options)

    count = GlobalBatch(mask, axis_name, key).count
    ones = jnp.ones(mask.shape, jnp.float32)
    return {name: count * part for name, part in jax.jacrev(shares)(ones).items()}
