"""Contrastive losses over the global batch.

Source: arXiv:2502.16451, and InfoNCE as in CLIP (arXiv:2103.00020). The reference contrasts within
one device; here every example is contrasted with the whole batch, however many devices hold it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clac_jax.batch import Array
from clac_jax.models.clac import ClacOutput, ProjectedPair


def clac_loss(
    output: ClacOutput,
    example_mask: Array,
    *,
    axis_name: str | None = None,
    lm_weight: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss and what it is made of.

    Args:
        output: of this device's examples.
        example_mask: (B,) bool, False = padding: neither scored nor a negative.
        axis_name: mapped axis of the devices that share a batch; None: this batch is whole.
        lm_weight: factor of the language-model loss.

    Returns:
        This device's share of the loss, (): the sum over devices is the loss, so gradients are to
        be summed over devices too. And the terms, each () and the same on every device: `loss`,
        `cross_modal_loss`, `visual_loss`, `textual_loss`, `lm_loss` (those that exist), and
        `acc_top1`, `acc_top3` of the text given the crystal inside the global batch, first views.
    """
    contrast = _Contrast(jnp.asarray(example_mask), axis_name)
    shares = {"cross_modal_loss": contrast.pair_loss(output.cross)}
    if output.visual is not None:
        shares["visual_loss"] = contrast.pair_loss(output.visual)
    if output.textual is not None:
        shares["textual_loss"] = contrast.pair_loss(output.textual)
    loss = sum(shares.values(), start=jnp.zeros(()))
    if output.lm_loss_sum is not None:
        num_tokens = jnp.maximum(contrast.total(output.lm_num_tokens), 1)
        shares["lm_loss"] = jnp.mean(output.lm_loss_sum / num_tokens)
        loss = loss + lm_weight * shares["lm_loss"]
    shares["loss"] = loss
    shares |= contrast.accuracies(output.cross)
    return loss, {name: contrast.total(share) for name, share in shares.items()}


class _Contrast:
    """InfoNCE between this device's rows and the columns of all devices."""

    def __init__(self, mask: jax.Array, axis_name: str | None) -> None:
        self.axis_name = axis_name
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

    def logits(self, rows: jax.Array, columns: jax.Array, log_scale: jax.Array) -> jax.Array:
        """(B, devices * B) scores; the lowest number at padding columns."""
        scores = rows @ columns.T * jnp.exp(log_scale)
        return jnp.where(self.columns, scores, jnp.finfo(scores.dtype).min)

    def own(self, logits: jax.Array) -> jax.Array:
        """(B,) score of each row with its own column."""
        return jnp.take_along_axis(logits, self.own_column[:, None], axis=1)[:, 0]

    def cross_entropy(self, logits: jax.Array) -> jax.Array:
        """This device's share of the mean cross entropy of the real rows."""
        losses = jax.nn.logsumexp(logits, axis=1) - self.own(logits)
        return jnp.sum(jnp.where(self.rows, losses, 0)) / self.count

    def pair_loss(self, pair: ProjectedPair) -> jax.Array:
        """Symmetric cross entropy, summed over all pairs of a left and a right view."""
        loss = jnp.zeros((), pair.left.dtype)
        all_left = [self.gather(view) for view in pair.left]
        all_right = [self.gather(view) for view in pair.right]
        for left, left_columns in zip(pair.left, all_left, strict=True):
            for right, right_columns in zip(pair.right, all_right, strict=True):
                forward = self.cross_entropy(self.logits(left, right_columns, pair.log_scale))
                backward = self.cross_entropy(self.logits(right, left_columns, pair.log_scale))
                loss = loss + 0.5 * (forward + backward)
        return loss

    def accuracies(self, pair: ProjectedPair) -> dict[str, jax.Array]:
        """Shares of the top-1 and top-3 accuracy; a tie counts against the right text."""
        logits = self.logits(pair.left[0], self.gather(pair.right[0]), pair.log_scale)
        better = jnp.sum(logits >= self.own(logits)[:, None], axis=1) - 1
        return {f"acc_top{k}": jnp.sum(self.rows & (better < k)) / self.count for k in (1, 3)}
