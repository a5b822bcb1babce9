"""What keeps sums exact when the towers compute in bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float


def at_least_float32(x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """bfloat16 as float32, where sums of many terms need it; others as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
