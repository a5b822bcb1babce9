"""The trunk of ORB v3: message passing with gated edges, mean-pooled.

Rhodes et al., "Orb-v3: atomistic simulation at scale", arXiv:2504.06231; the direct models of the
package orb-models, whose weights `clac_jax.models.graph.orb_weights` reads.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.graph.ops import mean_pool, safe_norm
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.typing import Array

NUM_RADIAL = 8
NUM_ANGULAR = 16
NUM_ELEMENTS = 119
"""Rows of the embedding: by atomic number, the first for none."""
_ENVELOPE_ORDER = 4


def spherical_harmonics(units: Array) -> jax.Array:
    """(E, 3) unit vectors -> (E, 16) real harmonics of l = 0..3.

    In the order and the norm of e3nn's "component": y is the polar axis, and those of one l have
    the sum of squares 2 l + 1.
    """
    x, y, z = (units[:, k] for k in range(3))
    x2, y2, z2 = x * x, y * y, z * z
    return jnp.stack(
        [
            jnp.ones_like(x),
            3**0.5 * x,
            3**0.5 * y,
            3**0.5 * z,
            15**0.5 * x * z,
            15**0.5 * x * y,
            5**0.5 / 2 * (2 * y2 - x2 - z2),
            15**0.5 * y * z,
            15**0.5 / 2 * (z2 - x2),
            (35 / 8) ** 0.5 * x * (3 * z2 - x2),
            105**0.5 * x * y * z,
            (21 / 8) ** 0.5 * x * (4 * y2 - x2 - z2),
            7**0.5 / 2 * y * (2 * y2 - 3 * x2 - 3 * z2),
            (21 / 8) ** 0.5 * z * (4 * y2 - x2 - z2),
            105**0.5 / 2 * y * (z2 - x2),
            (35 / 8) ** 0.5 * z * (z2 - 3 * x2),
        ],
        axis=1,
    )


def envelope(distances: Array, cutoff: float) -> jax.Array:
    """(E,) angstrom -> (E,): 1 at 0, and 0 with two derivatives from the cutoff on."""
    p, x = _ENVELOPE_ORDER, distances / cutoff
    value = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    value -= p * (p + 1) / 2 * x ** (p + 2)
    return jnp.where(distances < cutoff, value, 0)


def edge_features(vectors: Array, cutoff: float) -> jax.Array:
    """(E, 3) angstrom -> (E, 128): Bessel functions times harmonics, under the envelope."""
    distances = safe_norm(vectors, axis=1)
    safe = jnp.where(distances > 0, distances, 1)
    order = jnp.arange(1, NUM_RADIAL + 1, dtype=distances.dtype)
    radial = jnp.sin(order * (jnp.pi / cutoff) * distances[:, None]) / safe[:, None]
    radial = (2 / cutoff) ** 0.5 * radial * envelope(distances, cutoff)[:, None]
    angular = spherical_harmonics(vectors / safe[:, None])
    return (radial[:, :, None] * angular[:, None, :]).reshape(-1, NUM_RADIAL * NUM_ANGULAR)


class Perceptron(nn.Module):
    """The rest of a three-layer perceptron behind its first linear map, then an RMS norm.

    Attributes:
        hidden: width of the two hidden layers.
        features: width of the output.
        dtype: of the arithmetic; None: that of the parameters.
    """

    hidden: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, first: Array) -> jax.Array:
        """(N, hidden) -> (N, features)."""
        x = nn.Dense(self.hidden, dtype=self.dtype, name="second")(nn.silu(first))
        x = nn.Dense(self.features, dtype=self.dtype, name="third")(nn.silu(x))
        # PyTorch's default: the spacing of float32 at one.
        epsilon = float(jnp.finfo(jnp.float32).eps)
        return nn.RMSNorm(epsilon=epsilon, dtype=self.dtype, name="norm")(x)


class GatedMessages(nn.Module):
    """One step: edges from their two nodes, then nodes from their gated edges in both directions.

    Attributes:
        hidden: width of the perceptrons.
        dtype: of the arithmetic; None: that of the parameters.
    """

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, nodes: Array, edges: Array, graphs: GraphBatch, weights: Array
    ) -> tuple[jax.Array, jax.Array]:
        """(N, F), (E, F) -> the same; `weights` (E,) are the envelope, 0 at padding."""
        features = nodes.shape[-1]

        def dense(width: int, name: str, use_bias: bool = False) -> nn.Dense:
            return nn.Dense(width, use_bias=use_bias, dtype=self.dtype, name=name)

        # A linear map of [edge, centre, neighbour] is a sum of three, two of them per node.
        centre, neighbour = graphs.receivers, graphs.senders
        first = dense(self.hidden, "edge_from_edge", use_bias=True)(edges)
        first += dense(self.hidden, "edge_from_centre")(nodes)[centre]
        first += dense(self.hidden, "edge_from_neighbour")(nodes)[neighbour]
        messages = Perceptron(self.hidden, features, self.dtype, name="edge")(first)

        def collected(gate: str, at: Array) -> jax.Array:
            share = nn.sigmoid(dense(1, gate, use_bias=True)(edges)) * weights[:, None]
            total = at_least_float32(messages * share)
            total = jax.ops.segment_sum(total, at, num_segments=nodes.shape[0])
            return total.astype(nodes.dtype)

        at_neighbour = collected("neighbour_gate", neighbour)
        at_centre = collected("centre_gate", centre)
        first = dense(self.hidden, "node_from_node", use_bias=True)(nodes)
        first += dense(self.hidden, "node_from_neighbour_sum")(at_neighbour)
        first += dense(self.hidden, "node_from_centre_sum")(at_centre)
        new = Perceptron(self.hidden, features, self.dtype, name="node")(first)
        return nodes + new, edges + messages


class Orb(nn.Module):
    """ORB v3's trunk without its force field's heads.

    An edge belongs to the atom that chose its neighbour, its centre: in `GraphBatch` the receiver.

    Attributes:
        features: width of nodes, edges and output.
        hidden: width of the perceptrons.
        num_interactions: steps.
        cutoff: angstrom, where the envelope ends.
        dtype: of the arithmetic; None: that of the parameters.
        remat: whether the backward pass computes the insides of a step again.
    """

    features: int = 256
    hidden: int = 1024
    num_interactions: int = 5
    cutoff: float = 6.0
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Encodes crystals -> (rows, features), the mean over a crystal's nodes.

        Args:
            graphs: packed crystals; zeros come out for padding rows.
            train: unused, ORB does the same in training.
            axis_name: unused.
        """
        del train, axis_name

        def encoder(width: int, name: str) -> tuple[nn.Dense, Perceptron]:
            first = nn.Dense(width, dtype=self.dtype, name=f"{name}_in")
            return first, Perceptron(self.hidden, self.features, self.dtype, name=name)

        # From the centre to its neighbour.
        vectors = -jnp.asarray(graphs.edge_vectors)
        embedding = nn.Embed(NUM_ELEMENTS, self.features, dtype=self.dtype, name="embedding")
        node_in, node = encoder(self.hidden, "node_encoder")
        edge_in, edge = encoder(self.hidden, "edge_encoder")
        nodes = node(node_in(embedding(graphs.atomic_numbers)))
        edges = edge(edge_in(edge_features(vectors, self.cutoff)))
        weights = envelope(safe_norm(vectors, axis=1), self.cutoff)
        weights = jnp.where(graphs.edge_mask, weights, 0).astype(nodes.dtype)

        def step(k: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            messages = GatedMessages(self.hidden, self.dtype, name=f"interaction_{k}")
            return messages(*state, graphs, weights)

        for k in range(self.num_interactions):
            nodes, edges = remat_block(self, functools.partial(step, k))((nodes, edges))
        return mean_pool(graphs, nodes)
