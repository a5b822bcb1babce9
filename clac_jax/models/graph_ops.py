"""What the graph encoders share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clac_jax.batch import Array, GraphBatch
from clac_jax.elements import atom_features


def node_features(graphs: GraphBatch) -> jax.Array:
    """(N, 92) CGCNN atom vectors; zeros at padding."""
    return jnp.take(jnp.asarray(atom_features()), graphs.atomic_numbers, axis=0)


def crystal_membership(graphs: GraphBatch, dtype: jnp.dtype) -> jax.Array:
    """(rows, N), one where the node belongs to the crystal."""
    rows = jnp.arange(graphs.lattices.shape[0])
    return (graphs.crystal_index[None, :] == rows[:, None]).astype(dtype)


def sum_pool(graphs: GraphBatch, nodes: Array) -> jax.Array:
    """(N, F) -> (rows, F), the sum over each crystal's nodes.

    A product with a 0/1 matrix: there are few rows, and a scatter is slower on every device.
    """
    members = crystal_membership(graphs, nodes.dtype)
    return jnp.matmul(members, nodes, precision=jax.lax.Precision.HIGHEST)


def safe_norm(vectors: Array, axis: int) -> jax.Array:
    """Euclidean norm whose gradient at the zero vector is zero."""
    square = jnp.sum(jnp.square(vectors), axis=axis)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
