"""Positive numbers as features that a perceptron can compare finely over many magnitudes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

OCTAVES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
"""Periods of the waves, in factors of two: from five orders of magnitude to a few per cent."""
NUM_FEATURES = 2 * len(OCTAVES) + 1
"""Features per number."""


def magnitude_features(
    values: Float[jax.Array, "*shape"],
) -> Float[jax.Array, "*shape features"]:
    """(...) -> (..., NUM_FEATURES): the binary logarithm of each |value| and waves of it.

    Texts state a density to three digits; in a plain number, the third would hardly count.
    """
    octaves = jnp.log2(jnp.maximum(jnp.abs(values), 2.0**-10))[..., None]
    phases = octaves * jnp.asarray(2 * np.pi / np.array(OCTAVES), octaves.dtype)
    return jnp.concatenate([octaves / 4, jnp.sin(phases), jnp.cos(phases)], axis=-1)
