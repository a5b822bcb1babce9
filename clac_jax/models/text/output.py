"""The output type of the text encoders."""

from __future__ import annotations

import flax.struct
import jax
from jaxtyping import Float, Int


@flax.struct.dataclass
class TextOutput:
    """The output of a text encoder.

    Attributes:
        features: (rows, H) one vector per text; (rows, 2 H) with "attention".
        hidden: (K, H) last hidden state at every token slot.
        lm_loss_sum: (V,) summed language-model loss of each view; None without labels.
        lm_num_tokens: (V,) number of labelled tokens of each view; None without labels.
    """

    features: Float[jax.Array, "texts features"]
    hidden: Float[jax.Array, "tokens hidden"]
    lm_loss_sum: Float[jax.Array, "views"] | None = None
    lm_num_tokens: Int[jax.Array, "views"] | None = None
