"""The compositions of the formulas in a text, as features of their first tokens.

A word-piece vocabulary splits "La2MoO6" into pieces that say little about the compound.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.settings import ModelError
from clac_jax.models.text.layers import dense
from clac_jax.models.text.settings import TextEncoderSettings


class CompositionEmbedding(nn.Module):
    """Adds to the first token of each formula a vector made from the composition.

    Attributes:
        settings: settings of the encoder.
    """

    settings: TextEncoderSettings

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "tokens hidden"], texts: TextBatch
    ) -> Float[jax.Array, "tokens hidden"]:
        """(K, H) -> (K, H); other tokens stay as they are.

        Raises:
            ModelError: the batch was made without compositions.
        """
        if texts.formulas is None:
            raise ModelError(
                "The text encoder reads compositions, and the batch has none. Make it with the "
                "needs of the model's config."
            )
        hidden = self.settings.hidden_size
        fractions = jnp.asarray(texts.formulas.fractions)
        # Roots and presence: a dopant counts although there is little of it.
        present = (fractions > 0).astype(fractions.dtype)
        features = jnp.concatenate([fractions, jnp.sqrt(fractions), present], axis=1)
        vectors = nn.silu(dense(self.settings, hidden, "hidden")(features))
        vectors = dense(self.settings, hidden, "out")(vectors)
        # Slots without a formula point beyond the last token.
        return x.at[jnp.asarray(texts.formulas.first_token)].add(vectors, mode="drop")
