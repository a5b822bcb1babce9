"""Symmetry, conventional cell and sites of a crystal as features: see `crystals.descriptors`."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.crystals.descriptors import NEIGHBOURS, SHELL_NUMBERS
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.input_pipeline.descriptor_batch import DescriptorBatch
from clac_jax.models.anatomy import Anatomy, dense_axes
from clac_jax.models.fourier import magnitude_features
from clac_jax.models.graph.ops import mean_pool, node_features
from clac_jax.models.settings import ModelError

SPACE_GROUPS = 231  # 0: unknown


@dataclass(frozen=True)
class DescriptorSettings:
    """Sizes of the encoder of descriptors.

    Attributes:
        num_features: width of the hidden layers.
        out_dim: width of a crystal's vector.
    """

    num_features: int = 256
    out_dim: int = 512

    def anatomy(self) -> Anatomy:
        """The units of its arrays; only its output can grow, since its width is not a key."""
        return Anatomy(axes=dense_axes("out", "_ -> out"), output="out")


class DescriptorEncoder(nn.Module):
    """Perceptrons on the descriptors of each site and of the crystal.

    Attributes:
        settings: sizes of the network.
    """

    settings: DescriptorSettings

    @nn.compact
    def __call__(self, graphs: GraphBatch) -> Float[jax.Array, "crystals features"]:
        """Encodes crystals -> (rows, out_dim); padding rows are meaningless.

        Raises:
            ModelError: the batch was made without descriptors.
        """
        descriptors = descriptors_of(graphs, "add_descriptors")
        width = self.settings.num_features
        rows = descriptors.space_group.shape[0]
        sites = _site_features(graphs, descriptors)
        for k in range(2):
            sites = nn.silu(nn.Dense(width, name=f"site_{k}")(sites))
        # One segment more than there are rows, for the padding; a row without atoms has -inf.
        strongest = jax.ops.segment_max(sites, jnp.asarray(graphs.crystal_index), rows + 1)[:-1]
        strongest = jnp.where(jnp.isneginf(strongest), 0, strongest)
        x = jnp.concatenate(
            [mean_pool(graphs, sites), strongest, _cell_features(descriptors)], axis=1
        )
        group = nn.Embed(SPACE_GROUPS, width, name="space_group")(
            jnp.asarray(descriptors.space_group)
        )
        x = nn.silu(nn.Dense(width, name="hidden_0")(x) + group)
        x = nn.silu(nn.Dense(width, name="hidden_1")(x))
        features: jax.Array = nn.Dense(self.settings.out_dim, name="out")(x)
        return features


class WithDescriptors(nn.Module):
    """An encoder with features of the descriptors added to its output.

    Attributes:
        encoder: any graph encoder.
        descriptors: encoder of the descriptors with an output of the same width.
    """

    encoder: nn.Module
    descriptors: DescriptorEncoder

    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals features"]:
        """Encodes crystals -> (rows, out_dim); padding rows are meaningless."""
        features: jax.Array = self.encoder(graphs, train=train, axis_name=axis_name)
        added: jax.Array = self.descriptors(graphs)
        return features + added


def descriptors_of(graphs: GraphBatch, option: str) -> DescriptorBatch:
    """The descriptors of a batch.

    Args:
        graphs: packed crystals.
        option: the config key that needs them.

    Raises:
        ModelError: the batch was made without descriptors.
    """
    if graphs.descriptors is None:
        raise ModelError(
            f"{option} needs descriptors of the crystals, and the batch has none. Make it with the "
            "needs of the model's config."
        )
    return graphs.descriptors


def _site_features(
    graphs: GraphBatch, descriptors: DescriptorBatch
) -> Float[jax.Array, "nodes features"]:
    sites = jnp.asarray(descriptors.sites)
    shells = sites[:, NEIGHBOURS:].reshape(-1, 2, SHELL_NUMBERS)
    numbers = jnp.concatenate([sites[:, :NEIGHBOURS], shells[:, :, 0]], axis=1)
    magnitudes = magnitude_features(numbers).reshape(sites.shape[0], -1)
    others = shells[:, :, 1:].reshape(sites.shape[0], -1)
    return jnp.concatenate([node_features(graphs), magnitudes, others], axis=1)


def _cell_features(descriptors: DescriptorBatch) -> Float[jax.Array, "crystals features"]:
    cell = jnp.asarray(descriptors.cell)
    return magnitude_features(cell).reshape(cell.shape[0], -1)
