"""Precision of sums when the towers compute in bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float


def at_least_float32(x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """16-bit floats promoted to float32, for sums of many terms; wider dtypes unchanged."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
