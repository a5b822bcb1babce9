"""Composition and structure of crystals, read from the joint space: an auxiliary loss."""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Float, Int

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.fourier import NUM_FEATURES, magnitude_features
from clac_jax.models.graph.descriptors import SPACE_GROUPS, descriptors_of
from clac_jax.models.graph.ops import mean_pool


@flax.struct.dataclass
class StructureTargets:
    """The numbers that are predicted of each crystal.

    Attributes:
        space_group: (B,) int32 number of the space group, 0 where it is unknown.
        cell: (B, C) float32 numbers of the cell, see `crystals.descriptors`.
        composition: (B, E) float32 share of the atoms by atomic number; 0: the element is hidden.
    """

    space_group: Int[jax.Array, "examples"]
    cell: Float[jax.Array, "examples cell"]
    composition: Float[jax.Array, "examples elements"]


def structure_targets(graphs: GraphBatch, num_examples: int) -> StructureTargets:
    """The targets of a batch: those of its first views.

    Raises:
        ModelError: the batch was made without descriptors.
    """
    descriptors = descriptors_of(graphs, "structure_weight")
    elements = jax.nn.one_hot(graphs.atomic_numbers, MAX_ATOMIC_NUMBER + 1)
    return StructureTargets(
        jnp.asarray(descriptors.space_group)[:num_examples],
        jnp.asarray(descriptors.cell)[:num_examples],
        mean_pool(graphs, elements)[:num_examples],
    )


class StructureHead(nn.Module):
    """Predicts composition, space group and cell from vectors of crystals and of texts.

    In a contrast, the elements are enough to distinguish most crystals of a batch, so little else
    finds its way into the joint space. This loss gives structure and stoichiometry a place there,
    and since the same weights read it from both kinds of vectors, it is the same place for both.
    """

    @nn.compact
    def __call__(
        self, vectors: Float[jax.Array, "views examples features"], targets: StructureTargets
    ) -> Float[jax.Array, "examples"]:
        """The loss of each example, averaged over its vectors.

        Args:
            vectors: (V, B, P) unit vectors of crystals and texts, one slice per view.
            targets: what is predicted.

        Returns:
            (B,): the cross entropy of the space group, 0 where it is unknown, plus the mean squared
            error of the waves of the cell's numbers (`magnitude_features`), plus the
            Kullback-Leibler divergence of the composition; meaningless at padding.
        """
        # Components of about 1, for which the initial weights are made.
        x = vectors * math.sqrt(vectors.shape[-1])
        cell = targets.cell
        wanted = magnitude_features(cell).reshape(cell.shape[0], -1)
        logits = nn.Dense(SPACE_GROUPS, name="space_group")(x)
        waves = nn.Dense(cell.shape[1] * NUM_FEATURES, name="cell")(x)
        group = targets.space_group[None, :, None]
        symmetry = -jnp.take_along_axis(jax.nn.log_softmax(logits), group, axis=-1)[..., 0]
        symmetry = jnp.where(targets.space_group > 0, symmetry, 0)
        numbers = jnp.mean(jnp.square(waves - wanted), axis=-1)
        shares = targets.composition
        logits = nn.Dense(shares.shape[1], name="composition")(x)
        entropy = -jnp.sum(xlogy(shares, shares), axis=-1)
        elements = -jnp.sum(shares * jax.nn.log_softmax(logits), axis=-1) - entropy
        return jnp.mean(symmetry + numbers + elements, axis=0)
