"""CGCNN: crystal graph convolutions over real edges.

Xie and Grossman, "Crystal graph convolutional neural networks for an accurate and interpretable
prediction of material properties", arXiv:1710.10324, as used by CLaC (arXiv:2502.16451).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from clac_jax.config.key import key
from clac_jax.crystals.elements import NUM_FEATURES
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.anatomy import Anatomy, Layers, dense_axes, norm_axes
from clac_jax.models.graph.ops import node_features, safe_norm, sum_pool
from clac_jax.models.graph.settings import GraphEncoderSettings, Params, cutoff_key
from clac_jax.models.normalization import MaskedBatchNorm
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.models.torch_layout import TensorReader, count_layers

_NO_IDENTITY = (
    "CGCNN applies a softplus after each {}, which no weights of a new one turn into the identity"
)


@dataclass(frozen=True)
class CGCNNSettings(GraphEncoderSettings):
    """Sizes of a CGCNN, with the names used by the reference."""

    cutoff: float = cutoff_key(6.0)
    atom_fea_len: int = key(1024, "width of an atom's features", low=1)
    nbr_fea_len: int = key(80, "Gaussians of an edge's length", low=2)
    rbf_max: float = key(
        8.0, "centre of the last Gaussian and zero of the envelope, angstrom", low=0.1, high=100.0
    )
    n_conv: int = key(3, "convolutions", low=0)
    h_fea_len: int = key(512, "width of the perceptron after the pooling", low=1)
    n_h: int = key(1, "hidden layers of that perceptron", low=0)

    has_batch_statistics = True
    release_names = {  # noqa: RUF012
        name: name
        for name in ("atom_fea_len", "nbr_fea_len", "n_conv", "h_fea_len", "n_h", "out_dim")
    }

    def build(self, dtype: str | None = None, remat: bool = False) -> CGCNN:  # noqa: D102
        return CGCNN(self, dtype, remat)

    def anatomy(self) -> Anatomy:  # noqa: D102
        conv = r"conv_\d+"
        return Anatomy(
            axes={
                **dense_axes("embedding", "_ -> features"),
                **dense_axes(f"{conv}/(?:receiver|sender)", "features -> 2 features"),
                **dense_axes(f"{conv}/edge", "_ -> 2 features"),
                **norm_axes(f"{conv}/norm", "features"),
                **dense_axes("hidden_0", "features -> hidden"),
                **dense_axes(r"hidden_\d+", "hidden -> hidden"),
                **dense_axes("out", "hidden -> out" if self.n_h else "features -> out"),
            },
            output="out",
            layers=(
                Layers(r"conv_(\d+)/", "convolution", refusal=_NO_IDENTITY.format("convolution")),
                Layers(
                    r"hidden_(\d+)/", "hidden layer", refusal=_NO_IDENTITY.format("hidden layer")
                ),
            ),
        )

    @classmethod
    def release_sizes(cls, tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:  # noqa: D102
        if "convs.0.lin_f.weight" not in tensors:
            return None
        width = tensors["embedding.weight"].shape[0]
        # Linear layers have even indices; activations are in between.
        num_hidden = count_layers(tensors, r"conv_to_fc\.(\d+)\.weight") - 1
        return {
            "atom_fea_len": width,
            "nbr_fea_len": tensors["convs.0.lin_f.weight"].shape[1] - 2 * width,
            "n_conv": count_layers(tensors, r"convs\.(\d+)\.lin_f\.weight"),
            "n_h": num_hidden,
            "h_fea_len": tensors["conv_to_fc.0.weight"].shape[0],
            "out_dim": tensors[f"conv_to_fc.{2 * num_hidden}.weight"].shape[0],
        }

    def release_params(self, tensors: TensorReader) -> Params:  # noqa: D102
        size, edge, hidden = self.atom_fea_len, self.nbr_fea_len, self.h_fea_len
        params: Params = {"embedding": tensors.dense("embedding", NUM_FEATURES, size)}
        for k in range(self.n_conv):
            # The release applies one linear layer per gate to [receiver, sender, edge].
            gates = [
                tensors.dense(f"convs.{k}.{gate}", 2 * size + edge, size)
                for gate in ("lin_f", "lin_s")
            ]
            kernel = np.concatenate([gate["kernel"] for gate in gates], axis=1)
            receiver, sender, edges = np.split(kernel, (size, 2 * size))
            params[f"conv_{k}"] = {
                "receiver": {
                    "kernel": receiver,
                    "bias": np.concatenate([gate["bias"] for gate in gates]),
                },
                "sender": {"kernel": sender},
                "edge": {"kernel": edges},
                "norm": tensors.norm(f"convs.{k}.bn", size),
            }
        # Linear layers have even indices (conv_to_fc.0, .2, ...); activations are in between.
        width = size
        for k in range(self.n_h):
            params[f"hidden_{k}"] = tensors.dense(f"conv_to_fc.{2 * k}", width, hidden)
            width = hidden
        params["out"] = tensors.dense(f"conv_to_fc.{2 * self.n_h}", width, self.out_dim)
        return params

    def release_statistics(self, tensors: TensorReader) -> Params:  # noqa: D102
        return {
            f"conv_{k}": {"norm": tensors.statistics(f"convs.{k}.bn", self.atom_fea_len)}
            for k in range(self.n_conv)
        }


def edge_features(
    distances: Float[jax.Array, "edges"], num_centers: int, cutoff: float
) -> Float[jax.Array, "edges {num_centers}"]:
    """(E,) angstrom -> (E, num_centers) Gaussians on [0, cutoff] under a cosine envelope."""
    centers = jnp.linspace(0.0, cutoff, num_centers, dtype=distances.dtype)
    gamma = (num_centers - 1) / cutoff
    gaussians = jnp.exp(-gamma * jnp.square(distances[:, None] - centers))
    return gaussians * jnp.cos(jnp.pi / 2 * distances[:, None] / cutoff)


class GatedConvolution(nn.Module):
    """One convolution: the node plus the batch-normalized sum of its gated messages.

    Attributes:
        dtype: dtype of the messages' arithmetic; None: that of the parameters.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "nodes features"],
        edges: Float[jax.Array, "edges edge_features"],
        graphs: GraphBatch,
        members: Bool[jax.Array, "views nodes"],
        *,
        train: bool,
        axis_name: str | None,
    ) -> Float[jax.Array, "nodes features"]:
        """(N, F) nodes and (E, C) edge features -> (N, F)."""
        features = x.shape[-1]

        def dense(name: str, use_bias: bool = False) -> nn.Dense:
            return nn.Dense(2 * features, use_bias=use_bias, dtype=self.dtype, name=name)

        # A linear map of [receiver, sender, edge] is a sum of three maps, two of which are cheaper
        # per node than per edge. Gate and core are concatenated.
        receiver = dense("receiver", use_bias=True)(x)
        sender = dense("sender")(x)
        edge = dense("edge")(edges)
        gate, core = jnp.split(
            receiver[graphs.receivers] + sender[graphs.senders] + edge, 2, axis=1
        )
        messages = jnp.where(graphs.edge_mask[:, None], nn.sigmoid(gate) * nn.softplus(core), 0)
        messages = at_least_float32(messages)
        total = jax.ops.segment_sum(messages, graphs.receivers, num_segments=x.shape[0])
        norm = MaskedBatchNorm(name="norm")
        messages = norm(total, members, train=train, axis_name=axis_name)
        return x + messages


class CGCNN(nn.Module):
    """Gated graph convolutions, sum-pooled, then a perceptron.

    Attributes:
        settings: sizes of the network.
        dtype: dtype of the convolutions' arithmetic; None: that of the parameters.
        remat: whether the backward pass recomputes the inside of each convolution.
    """

    settings: CGCNNSettings
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals {self.settings.out_dim}"]:
        """Encodes crystals; in training, each view is batch-normalized by its own statistics.

        Args:
            graphs: packed crystals.
            train: use batch statistics instead of running averages.
            axis_name: mapped axis of the devices over which the statistics are computed.

        Returns:
            (rows, out_dim); padding rows are meaningless.
        """
        sizes = self.settings
        distances = safe_norm(jnp.asarray(graphs.edge_vectors), axis=1)
        edges = edge_features(distances, sizes.nbr_fea_len, sizes.rbf_max)
        rows_per_view = graphs.lattices.shape[0] // graphs.num_views
        view = graphs.crystal_index // rows_per_view
        members = view[None, :] == jnp.arange(graphs.num_views)[:, None]

        def convolution(k: int, x: jax.Array) -> jax.Array:
            convolve = GatedConvolution(self.dtype, name=f"conv_{k}")
            return nn.softplus(
                convolve(x, edges, graphs, members, train=train, axis_name=axis_name)
            )

        x = nn.Dense(sizes.atom_fea_len, name="embedding")(node_features(graphs))
        for k in range(sizes.n_conv):
            x = remat_block(self, functools.partial(convolution, k))(x)
        y = sum_pool(graphs, x)
        for k in range(sizes.n_h):
            y = nn.softplus(nn.Dense(sizes.h_fea_len, name=f"hidden_{k}")(y))
        return nn.Dense(sizes.out_dim, name="out")(y)
