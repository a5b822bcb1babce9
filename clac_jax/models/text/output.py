"""What a text encoder returns."""

from __future__ import annotations

import flax.struct
import jax
from jaxtyping import Float, Int


@flax.struct.dataclass
class TextOutput:
    """What a text encoder returns.

    Attributes:
        features: (rows, H) one vector per text; (rows, 2 H) with "attention".
        hidden: (K, H) last hidden state of every token place.
        lm_loss_sum: (V,) summed language-model loss of each view; None without labels.
        lm_num_tokens: (V,) labelled tokens of each view; None without labels.
    """

    features: Float[jax.Array, "texts features"]
    hidden: Float[jax.Array, "tokens hidden"]
    lm_loss_sum: Float[jax.Array, "views"] | None = None
    lm_num_tokens: Int[jax.Array, "views"] | None = None
