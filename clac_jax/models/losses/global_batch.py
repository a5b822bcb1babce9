"""A device's examples among those of all devices, as used by the contrastive losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Shaped

from clac_jax.models.heads import ProjectedPair


class GlobalBatch:
    """This device's rows, contrasted with the columns of all devices."""

    def __init__(
        self,
        mask: Bool[jax.Array, "rows"],
        axis_name: str | None,
        key: Key[jax.Array, ""] | None,
        weights: Float[jax.Array, "rows"] | None = None,
    ) -> None:
        """Gathers the mask of all devices.

        Args:
            mask: (B,) bool, the real examples of this device.
            axis_name: mapped axis of the devices; None: this is the global batch.
            key: PRNG key of the step, the same on every device.
            weights: (B,) factor of each row in `mean`, so that the derivative of a mean by it is
                the row's own part; None: 1.
        """
        self.axis_name = axis_name
        self.key = key
        self.rows = mask
        self._weights = weights
        self.columns = self.gather(mask)
        self.count = jnp.maximum(jnp.sum(self.columns), 1)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * mask.shape[0]
        self.own_column = first + jnp.arange(mask.shape[0])

    def gather(self, x: Shaped[jax.Array, "rows ..."]) -> Shaped[jax.Array, "columns ..."]:
        """(B, ...) on this device -> (devices * B, ...) on all, in device order."""
        if self.axis_name is None:
            return x
        gathered: jax.Array = jax.lax.all_gather(x, self.axis_name, tiled=True)
        return gathered

    def total(self, x: Shaped[jax.Array, "*shape"]) -> Shaped[jax.Array, "*shape"]:
        """Sum over devices."""
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)

    def mean(self, x: Shaped[jax.Array, "rows"]) -> Float[jax.Array, ""]:
        """(B,) -> (): this device's share of the mean over the real examples of all devices."""
        x = jnp.where(self.rows, x, 0)
        return jnp.sum(x if self._weights is None else x * self._weights) / self.count

    def own(self, scores: Float[jax.Array, "rows columns"]) -> Float[jax.Array, "rows"]:
        """(B, devices * B) -> (B,): the score of each row with its matching column."""
        return jnp.take_along_axis(scores, self.own_column[:, None], axis=1)[:, 0]

    def is_own(self) -> Bool[jax.Array, "rows columns"]:
        """(B, devices * B) bool, True where row and column are the same example."""
        return self.own_column[:, None] == jnp.arange(self.columns.shape[0])

    def cross_entropy(self, scores: Float[jax.Array, "rows columns"]) -> Float[jax.Array, ""]:
        """(B, devices * B) -> (): share of the mean cross-entropy; targets are the own columns."""
        scores = self.without_padding(scores)
        return self.mean(jax.nn.logsumexp(scores, axis=1) - self.own(scores))

    def without_padding(
        self, scores: Float[jax.Array, "rows columns"]
    ) -> Float[jax.Array, "rows columns"]:
        """The scores, with the lowest finite number at padding columns."""
        return jnp.where(self.columns, scores, jnp.finfo(scores.dtype).min)

    def partner(self, shift: Int[jax.Array, ""]) -> Int[jax.Array, "rows"]:
        """(B,) column paired with each row after rolling the real columns by `shift` positions."""
        real_first = jnp.argsort(~self.columns, stable=True)
        place = jnp.cumsum(self.columns)[self.own_column] - 1
        return real_first[(place - shift) % self.count]

    def accuracies(self, pair: ProjectedPair) -> dict[str, Float[jax.Array, ""]]:
        """This device's shares of the top-1 and top-3 accuracy; a tie or NaN counts as wrong."""
        scores = self.without_padding(pair.scores(pair.left[0], self.gather(pair.right[0])))
        own = self.own(scores)
        better = jnp.sum(scores >= own[:, None], axis=1) - 1
        return {f"acc_top{k}": self.mean((better < k) & ~jnp.isnan(own)) for k in (1, 3)}
