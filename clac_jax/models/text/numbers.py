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
_SHARE = 5  # at most one token in 5 may belong to a number; in descriptions, one in 9 does


class NumberEmbedding(nn.Module):
    """Adds to each token of a number a vector made from its value.

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
            ModelError: the batch was made without the values of numbers.
        """
        if texts.numbers is None:
            raise ModelError(
                "The text encoder reads the values of numbers, and the batch has none. Make it "
                "with the needs of the model's config."
            )
        hidden = self.settings.hidden_size
        inner, outer = (dense(self.settings, hidden, name) for name in ("hidden", "out"))
        integers = embed(self.settings, _INTEGERS + 1, hidden, "integers")

        def vectors(values: Float[jax.Array, "n"]) -> Float[jax.Array, "n hidden"]:
            is_integer = (values >= 0) & (values < _INTEGERS) & (values == jnp.round(values))
            names = jnp.where(is_integer, values, _INTEGERS).astype(jnp.int32)
            signs = jnp.stack([values < 0, values == 0], axis=1).astype(values.dtype)
            features = jnp.concatenate([magnitude_features(values), signs], axis=1)
            made: jax.Array = outer(nn.silu(inner(features))) + integers(names)
            return made

        numbers = jnp.asarray(texts.numbers)
        is_number = ~jnp.isnan(numbers)

        def for_all(x: jax.Array) -> jax.Array:
            made = vectors(jnp.where(is_number, numbers, 1))
            return x + jnp.where(is_number[:, None], made, 0)

        size = len(numbers) // _SHARE
        if self.is_initializing() or jax.default_backend() != "cpu" or not size:
            return for_all(x)

        def for_numbers(x: jax.Array) -> jax.Array:
            places = jnp.nonzero(is_number, size=size, fill_value=len(numbers))[0]
            made = vectors(numbers.at[places].get(mode="fill", fill_value=1))
            return x.at[places].add(made, mode="drop")

        # A condition would make an accelerator wait for the host; there, the vectors of all tokens
        # cost little.
        added: jax.Array = jax.lax.cond(jnp.sum(is_number) <= size, for_numbers, for_all, x)
        return added
