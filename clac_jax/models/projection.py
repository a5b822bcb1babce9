"""The projection block applied before every contrastive score."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from clac_jax.models.anatomy import NORM_MEAN, Anatomy, dense_axes, norm_axes
from clac_jax.models.normalization import MaskedBatchNorm


def near_identity(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Float[jax.Array, "fan_in fan_out"]:
    """Uniform(-0.01, 0.01) with ones on the main diagonal."""
    noise = jax.random.uniform(key, shape, dtype, minval=-0.01, maxval=0.01)
    fan_in, fan_out = shape
    return jnp.where(jnp.eye(fan_in, fan_out, dtype=bool), jnp.ones((), dtype), noise)


def projection_anatomy() -> Anatomy:
    """The units of a projection block, from "input" to "joint".

    Every score divides by the lengths of the two vectors, so it is the same for vectors in which
    each number stands equally often.
    """
    return Anatomy(
        axes={
            "hidden/kernel": "input -> hidden",
            **norm_axes("norm", "hidden"),
            **dense_axes("out", "hidden -> joint"),
            **dense_axes("shortcut", "input -> joint"),
            **norm_axes("out_norm", "joint"),
        },
        output="joint",
        even={"joint": NORM_MEAN},
    )


class ProjectionBlock(nn.Module):
    """Layer norm of the sum of a two-layer perceptron and a near-identity linear shortcut.

    Source: arXiv:2502.16451, following the block of CLIP-Lite (arXiv:2112.07133).

    Attributes:
        features: width of the output.
    """

    features: int

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "rows inputs"],
        members: Bool[jax.Array, "sets rows"],
        *,
        train: bool,
        update_order: tuple[int, ...] | None = None,
        axis_name: str | None = None,
    ) -> Float[jax.Array, "rows {self.features}"]:
        """(N, F) -> (N, features); the other arguments are as for MaskedBatchNorm."""
        hidden = nn.Dense(self.features, use_bias=False, name="hidden")(x)
        hidden = MaskedBatchNorm(name="norm")(
            hidden, members, train=train, update_order=update_order, axis_name=axis_name
        )
        y = nn.Dense(self.features, name="out")(nn.relu(hidden))
        y = y + nn.Dense(self.features, kernel_init=near_identity, name="shortcut")(x)
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="out_norm")
        normalized: jax.Array = norm(y)
        return normalized
