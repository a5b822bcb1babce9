"""Batch normalization over masked sets of rows, across devices."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from clac_jax.typing import Array


class MaskedBatchNorm(nn.Module):
    """Batch norm whose rows come in sets, each normalized by its own mean and variance.

    Two views of a batch pass through a module together, yet each view has its own statistics, as if
    the module were called once per view. As in PyTorch, the biased variance normalizes and the
    unbiased variance enters the running average.

    Attributes:
        epsilon: added to the variance.
        momentum: weight of a new batch in the running averages.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "rows features"],
        members: Bool[jax.Array, "sets rows"],
        *,
        train: bool,
        update_order: tuple[int, ...] | None = None,
        axis_name: str | None = None,
    ) -> Float[jax.Array, "rows features"]:
        """Normalizes rows.

        Args:
            x: (N, F) rows.
            members: (V, N) bool, which rows belong to which set; a row belongs to at most one set.
            train: whether to use the statistics of each set and update the running averages;
                otherwise the running averages are used.
            update_order: order, with repetitions, in which the sets enter the running averages;
                by default each set once.
            axis_name: mapped axis of the devices over which the statistics are computed.

        Returns:
            (N, F); rows that belong to no set are finite but meaningless.
        """
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if not train:
            return (x - running_mean.value) * jax.lax.rsqrt(
                running_var.value + self.epsilon
            ) * scale + bias

        weights = members.astype(x.dtype)

        def per_set_sum(rows: jax.Array) -> jax.Array:
            total: jax.Array = jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST)
            return total if axis_name is None else jax.lax.psum(total, axis_name)

        def per_row(values: jax.Array) -> jax.Array:
            return jnp.matmul(weights.T, values, precision=jax.lax.Precision.HIGHEST)

        count = per_set_sum(jnp.ones((x.shape[0], 1), x.dtype))
        # Centered before squaring: E[x^2] - E[x]^2 loses digits.
        mean = per_set_sum(x) / jnp.maximum(count, 1)
        centered = x - per_row(mean)
        var = per_set_sum(jnp.square(centered)) / jnp.maximum(count, 1)
        if not self.is_initializing():
            unbiased = var * count / jnp.maximum(count - 1, 1)
            for k in range(members.shape[0]) if update_order is None else update_order:
                running_mean.value += self.momentum * (mean[k] - running_mean.value)
                running_var.value += self.momentum * (unbiased[k] - running_var.value)
        return centered * per_row(jax.lax.rsqrt(var + self.epsilon)) * scale + bias


def view_members(
    num_views: int, example_mask: Bool[Array, "examples"]
) -> Bool[jax.Array, "{num_views} {num_views}*examples"]:
    """(V, V * B) bool: which rows (view * B + example) are real examples of which view."""
    same_view = jnp.eye(num_views, dtype=bool)
    return (same_view[:, :, None] & example_mask[None, None, :]).reshape(num_views, -1)
