"""The composition that a text states, as a part of its features.

A word-piece vocabulary splits "La2MoO6" into pieces that say little about the compound.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.settings import ModelError

_UNITS = 128


class StatedComposition(nn.Module):
    """A perceptron on the composition that a text states, for the text's features.

    Attributes:
        width: number of features.
    """

    width: int

    @nn.compact
    def __call__(self, texts: TextBatch) -> Float[jax.Array, "texts features"]:
        """(rows, width); zero for texts that name no element.

        Raises:
            ModelError: the batch was made without compositions.
        """
        if texts.compositions is None:
            raise ModelError(
                "The text encoder reads compositions, and the batch has none. Make it with the "
                "needs of the model's config."
            )
        stated = jnp.asarray(texts.compositions)
        fractions, named = stated[:, 0], stated[:, 1]
        # The root as well: an element counts although there is little of it.
        x = jnp.concatenate([fractions, jnp.sqrt(fractions), named], axis=1)
        x = nn.silu(nn.Dense(_UNITS, name="hidden")(x))
        x = nn.Dense(self.width, name="out")(x)
        return jnp.where(jnp.any(named > 0, axis=1)[:, None], x, 0)
