"""The values of the numbers in a text, as features of their tokens.

A word-piece vocabulary splits "4.14" into pieces whose embeddings say little about its size.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.input_pipeline.batch import TextBatch
from clac_jax.models.fourier import magnitude_features
from clac_jax.models.settings import ModelError
from clac_jax.models.text.layers import dense, embed
from clac_jax.models.text.settings import TextEncoderSettings

_INTEGERS = 256  # those below it are also names: of space groups, for example


class NumberEmbedding(nn.Module):
    """A vector for each token of a number, from its value; zero for other tokens.

    Attributes:
        settings: settings of the encoder.
    """

    settings: TextEncoderSettings

    @nn.compact
    def __call__(self, texts: TextBatch) -> Float[jax.Array, "tokens hidden"]:
        """Returns (K, H).

        Raises:
            ModelError: the batch was made without the values of numbers.
        """
        if texts.numbers is None:
            raise ModelError(
                "The text encoder reads the values of numbers, and the batch has none. Make it "
                "with the needs of the model's config."
            )
        numbers = jnp.asarray(texts.numbers)
        is_number = ~jnp.isnan(numbers)
        values = jnp.where(is_number, numbers, 1)
        hidden = self.settings.hidden_size
        is_integer = (values >= 0) & (values < _INTEGERS) & (values == jnp.round(values))
        names = jnp.where(is_integer, values, _INTEGERS).astype(jnp.int32)
        signs = jnp.stack([values < 0, values == 0], axis=1).astype(values.dtype)
        features = jnp.concatenate([magnitude_features(values), signs], axis=1)
        x = nn.silu(dense(self.settings, hidden, "hidden")(features))
        x = dense(self.settings, hidden, "out")(x)
        x = x + embed(self.settings, _INTEGERS + 1, hidden, "integers")(names)
        return jnp.where(is_number[:, None], x, 0)
