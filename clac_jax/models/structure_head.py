"""Descriptors of crystals, predicted from texts: an auxiliary loss about structure."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.fourier import NUM_FEATURES, magnitude_features
from clac_jax.models.graph.descriptors import SPACE_GROUPS, descriptors_of


class StructureHead(nn.Module):
    """Predicts the space group and the numbers of the cell of each text's crystal.

    In a contrast, a composition is enough to distinguish most crystals of a batch, so a text
    encoder has little reason to read the rest. This loss gives it one.
    """

    @nn.compact
    def __call__(
        self, texts: Float[jax.Array, "views examples features"], graphs: GraphBatch
    ) -> Float[jax.Array, "examples"]:
        """The loss of each example, averaged over the views of its text.

        Returns:
            (B,): the cross entropy of the space group, 0 where it is unknown, plus the mean squared
            error of the waves of the cell's numbers (`magnitude_features`); meaningless at padding.

        Raises:
            ModelError: the batch was made without descriptors.
        """
        descriptors = descriptors_of(graphs, "structure_weight")
        num_examples = texts.shape[1]
        group = jnp.asarray(descriptors.space_group)[:num_examples]
        cell = jnp.asarray(descriptors.cell)[:num_examples]
        wanted = magnitude_features(cell).reshape(num_examples, -1)
        logits = nn.Dense(SPACE_GROUPS, name="space_group")(texts)
        waves = nn.Dense(cell.shape[1] * NUM_FEATURES, name="cell")(texts)
        symmetry = -jnp.take_along_axis(jax.nn.log_softmax(logits), group[None, :, None], axis=-1)[
            ..., 0
        ]
        symmetry = jnp.where(group > 0, symmetry, 0)
        numbers = jnp.mean(jnp.square(waves - wanted), axis=-1)
        return jnp.mean(symmetry + numbers, axis=0)
