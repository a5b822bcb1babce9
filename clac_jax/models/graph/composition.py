"""Composition and unit cell as features, without the arrangement of the atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.config.key import key
from clac_jax.crystals.elements import (
    DALTON_PER_CUBIC_ANGSTROM,
    MAX_ATOMIC_NUMBER,
    atomic_weights,
)
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.anatomy import Anatomy, dense_axes
from clac_jax.models.graph.ops import crystal_membership, node_features
from clac_jax.models.graph.settings import GraphEncoderSettings
from clac_jax.typing import Array


@dataclass(frozen=True)
class CompositionSettings(GraphEncoderSettings):
    """Sizes of the encoder that does not see the positions of the atoms."""

    num_features: int = key(512, "width of the hidden layers", low=1)

    sees_composition = True

    def anatomy(self) -> Anatomy:  # noqa: D102
        return Anatomy(
            axes={
                **dense_axes("hidden_0", "_ -> features"),
                **dense_axes("hidden_1", "features -> features"),
                **dense_axes("out", "features -> out"),
            },
            output="out",
        )

    def build(self, dtype: str | None = None, remat: bool = False) -> CompositionEncoder:  # noqa: D102
        return CompositionEncoder(self, dtype, remat)


class _Smearing(NamedTuple):
    """Gaussians of unit height, `number` of them from `low` to `high`, as wide as their spacing."""

    low: float
    high: float
    number: int = 16

    def __call__(self, values: Float[jax.Array, "rows"]) -> Float[jax.Array, "rows gaussians"]:
        centres = jnp.linspace(self.low, self.high, self.number, dtype=values.dtype)
        width = (self.high - self.low) / (self.number - 1)
        return jnp.exp(-0.5 * jnp.square((values[..., None] - centres) / width))


# The ranges found in known crystals; beyond them only the plain value is informative.
_ATOMS = _Smearing(0.0, 5.0, 24)  # log number of atoms: 1 to 150
_VOLUME = _Smearing(1.5, 4.5, 24)  # log angstrom^3 per atom: 4.5 to 90
_DENSITY = _Smearing(-0.7, 3.2, 24)  # log g/cm^3: 0.5 to 24
_RATIO = _Smearing(-1.2, 1.2)  # log of a ratio of lengths: 0.3 to 3.3
_COSINE = _Smearing(-0.7, 1.0)


def cell_features(
    lattices: Float[Array, "rows 3 3"],
    num_atoms: Float[jax.Array, "rows"],
    masses: Float[jax.Array, "rows"],
) -> Float[jax.Array, "rows 160"]:
    """Features of a unit cell's size and shape; each number is also smeared over Gaussians.

    From the plain numbers, a perceptron would take long to learn to tell a cubic cell from a nearly
    cubic one.

    Args:
        lattices: (rows, 3, 3) cell vectors as rows, angstrom.
        num_atoms: (rows,) number of atoms, at least one.
        masses: (rows,) total mass of the cell, dalton, greater than zero.

    Returns:
        (rows, 160): logs of the number of atoms, the volume per atom, the density, b/a and c/a, and
        the cosines of the three angles; then their Gaussians.
    """
    lattices = jnp.asarray(lattices)
    lengths = jnp.sqrt(jnp.sum(jnp.square(lattices), axis=-1))
    a, b, c = lattices[:, 0], lattices[:, 1], lattices[:, 2]
    products = jnp.stack([jnp.sum(b * c, -1), jnp.sum(a * c, -1), jnp.sum(a * b, -1)], axis=1)
    cosines = products * lengths / jnp.prod(lengths, axis=1, keepdims=True)
    ratios = jnp.log(lengths[:, 1:] / lengths[:, :1])
    volume = jnp.abs(jnp.sum(a * jnp.cross(b, c), axis=-1))
    density = DALTON_PER_CUBIC_ANGSTROM * masses / volume
    sizes = jnp.log(jnp.stack([num_atoms, volume / num_atoms, density], axis=1))
    plain = jnp.concatenate([sizes, ratios, cosines], axis=1)
    laws = (_ATOMS, _VOLUME, _DENSITY, _RATIO, _RATIO, _COSINE, _COSINE, _COSINE)
    smeared = [law(plain[:, k]) for k, law in enumerate(laws)]
    return jnp.concatenate([plain, *smeared], axis=1)


class CompositionEncoder(nn.Module):
    """A perceptron on the mean atom vector, the elements present, and the cell.

    Attributes:
        settings: sizes of the network.
        dtype: unused; the encoder is too small to gain from bfloat16.
        remat: unused; the encoder keeps only a few vectors per crystal.
    """

    settings: CompositionSettings
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals features"]:
        """Encodes crystals -> (rows, out_dim); padding rows are meaningless."""
        del train, axis_name
        atoms = node_features(graphs)
        members = crystal_membership(graphs, atoms.dtype)
        num_atoms = jnp.maximum(jnp.sum(members, axis=1), 1)
        mean = members @ atoms / num_atoms[:, None]
        elements = jax.nn.one_hot(graphs.atomic_numbers, MAX_ATOMIC_NUMBER + 1, dtype=atoms.dtype)
        present = jnp.minimum(members @ elements, 1)
        weights = jnp.take(jnp.asarray(atomic_weights()), graphs.atomic_numbers)
        masses = jnp.maximum(members @ weights, 1)
        cell = cell_features(graphs.lattices, num_atoms, masses)
        x = jnp.concatenate([mean, present, cell], axis=1)
        for k in range(2):
            x = nn.silu(nn.Dense(self.settings.num_features, name=f"hidden_{k}")(x))
        features: jax.Array = nn.Dense(self.settings.out_dim, name="out")(x)
        return features


class WithComposition(nn.Module):
    """A structure encoder with features of composition and cell added to its output.

    A graph with a cutoff does not contain the cell: polytypes, whose atoms see the same neighbours,
    differ only in the cell.

    Attributes:
        encoder: encoder of the structure.
        composition: composition encoder with an output of the same width.
    """

    encoder: nn.Module
    composition: CompositionEncoder

    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals features"]:
        """Encodes crystals -> (rows, out_dim); padding rows are meaningless."""
        structure = self.encoder(graphs, train=train, axis_name=axis_name)
        features: jax.Array = structure + self.composition(graphs)
        return features
