"""CGCNN: crystal graph convolutions over real edges.

Xie and Grossman, "Crystal graph convolutional neural networks for an accurate and interpretable
prediction of material properties", arXiv:1710.10324, as used by CLaC (arXiv:2502.16451).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.graph.ops import node_features, safe_norm, sum_pool
from clac_jax.models.normalization import MaskedBatchNorm
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.typing import Array


def edge_features(distances: Array, num_centers: int, cutoff: float) -> jax.Array:
    """(E,) angstrom -> (E, num_centers) Gaussians on [0, cutoff] under a cosine envelope."""
    centers = jnp.linspace(0.0, cutoff, num_centers, dtype=distances.dtype)
    gamma = (num_centers - 1) / cutoff
    gaussians = jnp.exp(-gamma * jnp.square(distances[:, None] - centers))
    return gaussians * jnp.cos(jnp.pi / 2 * distances[:, None] / cutoff)


class GatedConvolution(nn.Module):
    """One convolution: the batch-normalized sum of gated messages, plus the node itself.

    Attributes:
        dtype: of the messages' arithmetic; None: that of the parameters.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        edges: Array,
        graphs: GraphBatch,
        members: Array,
        *,
        train: bool,
        axis_name: str | None,
    ) -> jax.Array:
        """(N, F) nodes, (E, C) edge features -> (N, F)."""
        features = x.shape[-1]

        def dense(name: str, use_bias: bool = False) -> nn.Dense:
            return nn.Dense(2 * features, use_bias=use_bias, dtype=self.dtype, name=name)

        # A linear map of [receiver, sender, edge] is a sum of three, and two of them are cheaper
        # per node than per edge. Gate and core side by side.
        receiver = dense("receiver", use_bias=True)(x)
        sender = dense("sender")(x)
        edge = dense("edge")(edges)
        gate, core = jnp.split(
            receiver[graphs.receivers] + sender[graphs.senders] + edge, 2, axis=1
        )
        messages = jnp.where(graphs.edge_mask[:, None], nn.sigmoid(gate) * nn.softplus(core), 0)
        messages = at_least_float32(messages)
        total = jax.ops.segment_sum(messages, graphs.receivers, num_segments=x.shape[0])
        return x + MaskedBatchNorm(name="norm")(total, members, train=train, axis_name=axis_name)


class CGCNN(nn.Module):
    """Gated graph convolutions, sum-pooled, then a perceptron.

    Attributes:
        atom_fea_len: width of the nodes.
        nbr_fea_len: Gaussian centers of an edge.
        n_conv: convolutions.
        h_fea_len: width of the perceptron.
        n_h: its hidden layers.
        out_dim: width of the output.
        cutoff: angstrom, last Gaussian center and zero of the envelope.
        dtype: of the convolutions' arithmetic; None: that of the parameters.
        remat: whether the backward pass computes the insides of a convolution again.
    """

    atom_fea_len: int = 1024
    nbr_fea_len: int = 80
    n_conv: int = 3
    h_fea_len: int = 512
    n_h: int = 1
    out_dim: int = 512
    cutoff: float = 8.0
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Encodes crystals; in training each view is batch-normalized by its own statistics.

        Args:
            graphs: packed crystals.
            train: batch statistics instead of running averages.
            axis_name: mapped axis over whose devices the statistics are taken.

        Returns:
            (rows, out_dim); meaningless for padding rows.
        """
        distances = safe_norm(jnp.asarray(graphs.edge_vectors), axis=1)
        edges = edge_features(distances, self.nbr_fea_len, self.cutoff)
        rows_per_view = graphs.lattices.shape[0] // graphs.num_views
        view = graphs.crystal_index // rows_per_view
        members = view[None, :] == jnp.arange(graphs.num_views)[:, None]

        def convolution(k: int, x: jax.Array) -> jax.Array:
            convolve = GatedConvolution(self.dtype, name=f"conv_{k}")
            return nn.softplus(
                convolve(x, edges, graphs, members, train=train, axis_name=axis_name)
            )

        x = nn.Dense(self.atom_fea_len, name="embedding")(node_features(graphs))
        for k in range(self.n_conv):
            x = remat_block(self, functools.partial(convolution, k))(x)
        y = sum_pool(graphs, x)
        for k in range(self.n_h):
            y = nn.softplus(nn.Dense(self.h_fea_len, name=f"hidden_{k}")(y))
        return nn.Dense(self.out_dim, name="out")(y)
