"""Operations shared by the graph encoders."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from clac_jax.crystals.elements import atom_features
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.precision import at_least_float32


def node_features(graphs: GraphBatch) -> Float[jax.Array, "nodes 92"]:
    """(N, 92) CGCNN atom vectors; zeros at padding."""
    return jnp.take(jnp.asarray(atom_features()), graphs.atomic_numbers, axis=0)


def crystal_membership(graphs: GraphBatch, dtype: DTypeLike) -> Float[jax.Array, "crystals nodes"]:
    """(rows, N), one where the node belongs to the crystal, else zero."""
    rows = jnp.arange(graphs.lattices.shape[0])
    return (graphs.crystal_index[None, :] == rows[:, None]).astype(dtype)


def sum_pool(
    graphs: GraphBatch, nodes: Float[jax.Array, "nodes features"]
) -> Float[jax.Array, "crystals features"]:
    """(N, F) -> (rows, F), the sum over each crystal's nodes; zeros for padding rows.

    Computed as a product with a 0/1 matrix: rows are few, and a scatter is slower on every device.
    """
    nodes = at_least_float32(nodes)
    members = crystal_membership(graphs, nodes.dtype)
    return jnp.matmul(members, nodes, precision=jax.lax.Precision.HIGHEST)


def mean_pool(
    graphs: GraphBatch, nodes: Float[jax.Array, "nodes features"]
) -> Float[jax.Array, "crystals features"]:
    """(N, F) -> (rows, F), the mean over each crystal's nodes; zeros for padding rows."""
    total = sum_pool(graphs, nodes)
    counts = jnp.sum(crystal_membership(graphs, total.dtype), axis=1, keepdims=True)
    return total / jnp.maximum(counts, 1)


def safe_norm(vectors: Float[jax.Array, "..."], axis: int) -> Float[jax.Array, "..."]:
    """Euclidean norm whose gradient at the zero vector is zero."""
    square = jnp.sum(jnp.square(vectors), axis=axis)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
