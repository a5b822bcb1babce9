"""What the composition and the unit cell tell, without the arrangement of the atoms."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.batch import Array, GraphBatch
from clac_jax.models.graph_ops import crystal_membership, node_features


def cell_features(lattices: Array, num_atoms: Array) -> jax.Array:
    """(rows, 3, 3) angstrom, (rows,) -> (rows, 7): log lengths, cosines, log volume per atom."""
    lattices = jnp.asarray(lattices)
    lengths = jnp.sqrt(jnp.sum(jnp.square(lattices), axis=-1))
    a, b, c = lattices[:, 0], lattices[:, 1], lattices[:, 2]
    products = jnp.stack([jnp.sum(b * c, -1), jnp.sum(a * c, -1), jnp.sum(a * b, -1)], axis=1)
    scales = jnp.stack(
        [
            lengths[:, 1] * lengths[:, 2],
            lengths[:, 0] * lengths[:, 2],
            lengths[:, 0] * lengths[:, 1],
        ],
        axis=1,
    )
    volume = jnp.abs(jnp.sum(a * jnp.cross(b, c), axis=-1))
    per_atom = jnp.log(volume / num_atoms)
    return jnp.concatenate([jnp.log(lengths), products / scales, per_atom[:, None]], axis=1)


class CompositionEncoder(nn.Module):
    """A perceptron on the mean atom vector and the shape of the cell.

    Attributes:
        num_features: width of the hidden layers.
        out_dim: width of the output.
    """

    num_features: int = 512
    out_dim: int = 512

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Encodes crystals -> (rows, out_dim); meaningless for padding rows."""
        del train, axis_name
        atoms = node_features(graphs)
        members = crystal_membership(graphs, atoms.dtype)
        num_atoms = jnp.maximum(jnp.sum(members, axis=1), 1)
        mean = members @ atoms / num_atoms[:, None]
        x = jnp.concatenate([mean, cell_features(graphs.lattices, num_atoms)], axis=1)
        for k in range(2):
            x = nn.silu(nn.Dense(self.num_features, name=f"hidden_{k}")(x))
        return nn.Dense(self.out_dim, name="out")(x)


class WithComposition(nn.Module):
    """An encoder of the structure, and what composition and cell alone tell added to its output.

    A graph with a cutoff does not hold the cell: polytypes, whose atoms see the same neighbours,
    differ in it alone.

    Attributes:
        encoder: of the structure.
        composition: with an output of the same width.
    """

    encoder: nn.Module
    composition: CompositionEncoder

    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Encodes crystals -> (rows, out_dim); meaningless for padding rows."""
        structure = self.encoder(graphs, train=train, axis_name=axis_name)
        return structure + self.composition(graphs)
