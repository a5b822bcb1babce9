"""Contrastive losses over the global batch.

The reference contrasts within one device; here every example is contrasted with the whole batch,
however many devices hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections

from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ProjectedPair
from clac_jax.typing import Array


@dataclass(frozen=True)
class LossOptions:
    """Which loss is computed.

    Attributes:
        name: a key of `LOSSES`.
        margin: of "cosface", on the cosine of a matched pair.
        prior_weight: of the priors, where the model has one; the contrasts get the rest.
        lm_weight: factor of the language-model loss.
    """

    name: str = "infonce"
    margin: float = 0.0
    prior_weight: float = 0.1
    lm_weight: float = 0.0


class Loss(Protocol):
    """What a step minimizes: (output, batch) -> this device's share of the loss, and its terms."""

    def __call__(
        self, output: Any, batch: Batch, *, axis_name: str | None = None, key: Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Arguments and results as for `clac_loss`."""


def make_loss(options: LossOptions = LossOptions()) -> Loss:
    """`clac_loss` with these options."""

    def loss(
        output: Any, batch: Batch, *, axis_name: str | None = None, key: Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return clac_loss(output, batch.example_mask, options, axis_name=axis_name, key=key)

    return loss


def loss_options(config: ml_collections.ConfigDict) -> LossOptions:
    """The loss that a config asks for."""
    loss = config.loss
    return LossOptions(loss.name, loss.margin, loss.prior_weight, config.lm_weight)


def clac_loss(
    output: ClacOutput,
    example_mask: Array,
    options: LossOptions = LossOptions(),
    *,
    axis_name: str | None = None,
    key: Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss and what it is made of.

    Args:
        output: of this device's examples.
        example_mask: (B,) bool, False = padding: neither scored nor a negative.
        options: which loss.
        axis_name: mapped axis of the devices that share a batch; None: this batch is whole.
        key: PRNG key of the step, the same on every device, for the losses that draw their
            negatives. None: their mean over all draws.

    Returns:
        This device's share of the loss, (): the sum over devices is the loss, so gradients are to
        be summed over devices too. And the terms, each () and the same on every device: `loss`,
        `cross_modal_loss`, `visual_loss`, `textual_loss`, `prior_loss`, `lm_loss` (those that
        exist), and `acc_top1`, `acc_top3` of the text given the crystal inside the global batch,
        first views.
    """
    batch = GlobalBatch(jnp.asarray(example_mask), axis_name, options, key)
    pair_loss = LOSSES[options.name]

    def contrast(pair: ProjectedPair) -> jax.Array:
        """Summed over all pairs of a left and a right view."""
        total = jnp.zeros((), pair.left.dtype)
        columns = [(view, batch.gather(view)) for view in pair.right]
        for left in pair.left:
            rows = left, batch.gather(left)
            for right in columns:
                total = total + pair_loss(batch, pair, rows, right)
        return total

    shares = {"cross_modal_loss": contrast(output.cross)}
    if output.visual is not None:
        shares["visual_loss"] = contrast(output.visual)
    if output.textual is not None:
        shares["textual_loss"] = contrast(output.textual)
    loss = sum(shares.values(), start=jnp.zeros(()))
    priors = [x for x in (output.crystal_prior, output.text_prior) if x is not None]
    if priors:
        shares["prior_loss"] = sum(batch.mean(prior) for prior in priors)
        loss = (1 - options.prior_weight) * loss + options.prior_weight * shares["prior_loss"]
    if output.lm_loss_sum is not None:
        num_tokens = jnp.maximum(batch.total(output.lm_num_tokens), 1)
        shares["lm_loss"] = jnp.mean(output.lm_loss_sum / num_tokens)
        loss = loss + options.lm_weight * shares["lm_loss"]
    shares["loss"] = loss
    shares |= batch.accuracies(output.cross)
    return loss, {name: batch.total(share) for name, share in shares.items()}


class GlobalBatch:
    """This device's rows among the columns of all devices."""

    def __init__(
        self, mask: jax.Array, axis_name: str | None, options: LossOptions, key: Array | None
    ) -> None:
        """For examples of which `mask`, (B,) bool, are real."""
        self.axis_name = axis_name
        self.options = options
        self.key = key
        self.rows = mask
        self.columns = self.gather(mask)
        self.count = jnp.maximum(jnp.sum(self.columns), 1)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * mask.shape[0]
        self.own_column = first + jnp.arange(mask.shape[0])

    def gather(self, x: jax.Array) -> jax.Array:
        """(B, ...) of this device -> (devices * B, ...) of all, in device order."""
        if self.axis_name is None:
            return x
        return jax.lax.all_gather(x, self.axis_name, tiled=True)

    def total(self, x: jax.Array) -> jax.Array:
        """Sum over devices."""
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)

    def mean(self, x: jax.Array) -> jax.Array:
        """(B,) -> (): this device's share of the mean over the real examples of all devices."""
        return jnp.sum(jnp.where(self.rows, x, 0)) / self.count

    def own(self, scores: jax.Array) -> jax.Array:
        """(B, devices * B) -> (B,): the score of each row with its own column."""
        return jnp.take_along_axis(scores, self.own_column[:, None], axis=1)[:, 0]

    def is_own(self) -> jax.Array:
        """(B, devices * B) bool, where row and column are the same example."""
        return self.own_column[:, None] == jnp.arange(self.columns.shape[0])

    def cross_entropy(self, scores: jax.Array) -> jax.Array:
        """(B, devices * B) -> (): share of the mean cross entropy; the own column is right."""
        scores = self.without_padding(scores)
        return self.mean(jax.nn.logsumexp(scores, axis=1) - self.own(scores))

    def without_padding(self, scores: jax.Array) -> jax.Array:
        """The lowest number at padding columns."""
        return jnp.where(self.columns, scores, jnp.finfo(scores.dtype).min)

    def partner(self, shift: jax.Array) -> jax.Array:
        """(B,) column that each row has after the real columns were rolled by `shift` places."""
        real_first = jnp.argsort(~self.columns, stable=True)
        place = jnp.cumsum(self.columns)[self.own_column] - 1
        return real_first[(place - shift) % self.count]

    def accuracies(self, pair: ProjectedPair) -> dict[str, jax.Array]:
        """Shares of the top-1 and top-3 accuracy; a tie counts against the right text."""
        scores = self.without_padding(pair.scores(pair.left[0], self.gather(pair.right[0])))
        better = jnp.sum(scores >= self.own(scores)[:, None], axis=1) - 1
        return {f"acc_top{k}": self.mean(better < k) for k in (1, 3)}


# A view on this device, (B, P), and on all of them, (devices * B, P).
Side = tuple[jax.Array, jax.Array]
PairLoss = Callable[[GlobalBatch, ProjectedPair, Side, Side], jax.Array]


def info_nce(batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side) -> jax.Array:
    """Symmetric cross entropy, as in CLIP (arXiv:2103.00020) and CLaC (arXiv:2502.16451)."""
    forward = batch.cross_entropy(pair.scores(left[0], right[1]))
    backward = batch.cross_entropy(pair.scores(right[0], left[1]))
    return 0.5 * (forward + backward)


def cosface(batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side) -> jax.Array:
    """InfoNCE with a margin taken from the cosine of the matched pair (arXiv:1801.09414).

    The temperature is learned, as in the other losses.
    """
    margin = batch.options.margin * jnp.exp(pair.log_scale) * batch.is_own()
    forward = batch.cross_entropy(pair.scores(left[0], right[1]) - margin)
    backward = batch.cross_entropy(pair.scores(right[0], left[1]) - margin)
    return 0.5 * (forward + backward)


def siglip(batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side) -> jax.Array:
    """Every pair of the batch classified by itself, matched or not (arXiv:2303.15343)."""
    scores = pair.scores(left[0], right[1])
    losses = jax.nn.softplus(jnp.where(batch.is_own(), -scores, scores))
    return batch.mean(jnp.sum(jnp.where(batch.columns, losses, 0), axis=1))


def jsd(batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side) -> jax.Array:
    """Jensen-Shannon bound on mutual information, as in CLIP-Lite (arXiv:2112.07133).

    Each row has one negative: its partner after the batch was rolled by a random shift. Without a
    key it has all others, which is the mean over all shifts.
    """
    matched = jax.nn.softplus(-pair.scores_of_rows(left[0], right[0]))
    if batch.key is None:
        others = batch.columns & ~batch.is_own()
        scores = jax.nn.softplus(pair.scores(left[0], right[1]))
        number = jnp.maximum(batch.count - 1, 1)
        return batch.mean(matched + jnp.sum(jnp.where(others, scores, 0), axis=1) / number)
    shift = jax.random.randint(batch.key, (), 1, jnp.maximum(batch.count, 2))
    negatives = right[1][batch.partner(shift)]
    return batch.mean(matched + jax.nn.softplus(pair.scores_of_rows(left[0], negatives)))


LOSSES: dict[str, PairLoss] = {
    "infonce": info_nce,
    "cosface": cosface,
    "siglip": siglip,
    "jsd": jsd,
}
