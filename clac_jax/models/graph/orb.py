"""The trunk of ORB v3: message passing with gated edges, mean-pooled.

Rhodes et al., "Orb-v3: atomistic simulation at scale", arXiv:2504.06231. Implements the direct
models of the orb-models package, whose weight files are read here without PyTorch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from clac_jax.config.key import key
from clac_jax.errors import one_line
from clac_jax.files.huggingface import PretrainedError
from clac_jax.files.torch import read_torch_file
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.models.graph.ops import mean_pool, safe_norm
from clac_jax.models.graph.settings import GraphEncoderSettings, Params, cutoff_key
from clac_jax.models.precision import at_least_float32
from clac_jax.models.remat import remat_block
from clac_jax.models.torch_layout import TensorReader, Tensors
from clac_jax.stores.copies import local_copy
from clac_jax.typing import Array

NUM_RADIAL = 8
NUM_ANGULAR = 16
NUM_ELEMENTS = 119
"""Rows of the embedding table, by atomic number; row 0 means no atom."""
_ENVELOPE_ORDER = 4


@dataclass(frozen=True)
class OrbSettings(GraphEncoderSettings):
    """Sizes of an ORB v3; orb-v3-direct-20-omat uses 256, 1024 and 5, with 20 neighbours."""

    cutoff: float = cutoff_key(6.0)
    num_features: int = key(
        512, "width of the features of atoms and edges, and of a crystal's vector", low=1
    )
    num_interactions: int = key(5, "message-passing steps", low=0)
    hidden_features: int = key(1024, "width of the perceptrons' hidden layers", low=1)

    pretrained_files = "a file of orb-models"

    @property
    def width(self) -> int:  # noqa: D102
        return self.num_features

    def build(self, dtype: str | None = None, remat: bool = False) -> Orb:  # noqa: D102
        return Orb(self, dtype, remat)

    def pretrained_params(self, path: str | Path) -> Params:
        """Reads a checkpoint file of orb-models (`orb-v3-direct-20-omat-*.ckpt`).

        Raises:
            TorchFileError: the file cannot be read, or holds more than plain data.
            PretrainedError: it is not an ORB v3 of these sizes.
        """
        content = read_torch_file(local_copy(path, "graph_encoder.pretrained"))
        try:
            if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
                raise ValueError("it has no tensors by name")
            return orb_params(content, self)
        except (KeyError, ValueError, TypeError) as error:
            raise PretrainedError(
                f"{path} does not hold an ORB v3 of these sizes: {one_line(error.args[0])}. Give "
                "an orb-v3-direct file, and set graph_encoder.num_features, hidden_features and "
                "num_interactions to its sizes (256, 1024 and 5)."
            ) from error


def spherical_harmonics(units: Float[jax.Array, "edges 3"]) -> Float[jax.Array, "edges 16"]:
    """(E, 3) unit vectors -> (E, 16) real spherical harmonics of l = 0..3.

    Order and normalization follow e3nn's "component": y is the polar axis, and the squares of the
    harmonics of one l sum to 2 l + 1.
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


def envelope(distances: Float[jax.Array, "edges"], cutoff: float) -> Float[jax.Array, "edges"]:
    """(E,) angstrom -> (E,): 1 at 0; from the cutoff on, 0 with two zero derivatives."""
    p, x = _ENVELOPE_ORDER, distances / cutoff
    value: jax.Array = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    value -= p * (p + 1) / 2 * x ** (p + 2)
    return jnp.where(distances < cutoff, value, 0)


def edge_features(
    vectors: Float[jax.Array, "edges 3"], cutoff: float
) -> Float[jax.Array, "edges 128"]:
    """(E, 3) angstrom -> (E, 128): Bessel functions times harmonics, under the envelope."""
    distances = safe_norm(vectors, axis=1)
    safe = jnp.where(distances > 0, distances, 1)
    order = jnp.arange(1, NUM_RADIAL + 1, dtype=distances.dtype)
    radial = jnp.sin(order * (jnp.pi / cutoff) * distances[:, None]) / safe[:, None]
    radial = (2 / cutoff) ** 0.5 * radial * envelope(distances, cutoff)[:, None]
    angular = spherical_harmonics(vectors / safe[:, None])
    return jnp.reshape(radial[:, :, None] * angular[:, None, :], (-1, NUM_RADIAL * NUM_ANGULAR))


class Perceptron(nn.Module):
    """A three-layer perceptron without its first linear map, followed by an RMS norm.

    Attributes:
        hidden: width of the two hidden layers.
        features: width of the output.
        dtype: dtype of the arithmetic; None: that of the parameters.
    """

    hidden: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, first: Float[jax.Array, "rows hidden"]
    ) -> Float[jax.Array, "rows {self.features}"]:
        """(N, hidden) -> (N, features)."""
        x = nn.Dense(self.hidden, dtype=self.dtype, name="second")(nn.silu(first))
        x = nn.Dense(self.features, dtype=self.dtype, name="third")(nn.silu(x))
        # PyTorch's default: the machine epsilon of float32.
        epsilon = float(jnp.finfo(jnp.float32).eps)
        normalized: jax.Array = nn.RMSNorm(epsilon=epsilon, dtype=self.dtype, name="norm")(x)
        return normalized


class GatedMessages(nn.Module):
    """One step: edges from their two nodes, then nodes from their gated edges in both directions.

    Attributes:
        hidden: width of the perceptrons.
        dtype: dtype of the arithmetic; None: that of the parameters.
    """

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        nodes: Float[jax.Array, "nodes features"],
        edges: Float[jax.Array, "edges features"],
        graphs: GraphBatch,
        weights: Float[jax.Array, "edges"],
    ) -> tuple[Float[jax.Array, "nodes features"], Float[jax.Array, "edges features"]]:
        """(N, F), (E, F) -> same shapes; `weights` (E,) is the envelope, 0 at padding."""
        features = nodes.shape[-1]

        def dense(width: int, name: str, use_bias: bool = False) -> nn.Dense:
            return nn.Dense(width, use_bias=use_bias, dtype=self.dtype, name=name)

        # A linear map of [edge, centre, neighbour] is a sum of three maps, two of them per node.
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
    """The ORB v3 trunk, without the heads of the force field.

    An edge belongs to its centre, the atom whose neighbour list it is in; in `GraphBatch` that is
    the receiver.

    Attributes:
        settings: sizes of the network.
        dtype: dtype of the arithmetic; None: that of the parameters.
        remat: whether the backward pass recomputes the inside of each step.
    """

    settings: OrbSettings
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals {self.settings.num_features}"]:
        """Encodes crystals -> (rows, num_features), the mean over each crystal's nodes.

        Args:
            graphs: packed crystals; padding rows yield zeros.
            train: unused; ORB behaves the same in training.
            axis_name: unused.
        """
        del train, axis_name
        sizes = self.settings

        def encoder(width: int, name: str) -> tuple[nn.Dense, Perceptron]:
            first = nn.Dense(width, dtype=self.dtype, name=f"{name}_in")
            return first, Perceptron(
                sizes.hidden_features, sizes.num_features, self.dtype, name=name
            )

        # From the centre to its neighbour.
        vectors = -jnp.asarray(graphs.edge_vectors)
        embedding = nn.Embed(NUM_ELEMENTS, sizes.num_features, dtype=self.dtype, name="embedding")
        node_in, node = encoder(sizes.hidden_features, "node_encoder")
        edge_in, edge = encoder(sizes.hidden_features, "edge_encoder")
        nodes = node(node_in(embedding(graphs.atomic_numbers)))
        edges = edge(edge_in(edge_features(vectors, sizes.cutoff)))
        weights = envelope(safe_norm(vectors, axis=1), sizes.cutoff)
        weights = jnp.where(graphs.edge_mask, weights, 0).astype(nodes.dtype)

        def step(k: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            messages = GatedMessages(sizes.hidden_features, self.dtype, name=f"interaction_{k}")
            return messages(*state, graphs, weights)

        for k in range(sizes.num_interactions):
            nodes, edges = remat_block(self, functools.partial(step, k))((nodes, edges))
        return mean_pool(graphs, nodes)


def orb_params(tensors: Tensors, settings: OrbSettings) -> Params:
    """Renames the tensors of orb-models; the heads of the force field are left out.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has a different shape, or there are more steps than in the settings.
    """
    features, hidden = settings.num_features, settings.hidden_features
    steps = settings.num_interactions
    reader = TensorReader(tensors, "atom_emb.embeddings.weight")
    if f"gnn_stacks.{steps}._node_mlp.mlp.NN-0.weight" in reader:
        raise ValueError(f"it has more than {steps} interactions")

    def rest(name: str) -> dict[str, Any]:
        return {
            "second": reader.dense(f"{name}.mlp.NN-1", hidden, hidden),
            "third": reader.dense(f"{name}.mlp.NN-2", hidden, features),
            "norm": {"scale": reader.take(f"{name}.layer_norm.weight", features)},
        }

    def first_of_three(name: str, ours: tuple[str, str, str]) -> dict[str, Any]:
        """Splits a map of three concatenated inputs into three maps; the first has the bias."""
        joint = reader.dense(f"{name}.mlp.NN-0", 3 * features, hidden)
        kernels = np.split(joint["kernel"], 3, axis=0)
        maps = {
            part: {"kernel": np.ascontiguousarray(kernel)}
            for part, kernel in zip(ours, kernels, strict=True)
        }
        maps[ours[0]]["bias"] = joint["bias"]
        return maps

    params: dict[str, Any] = {
        "embedding": {
            "embedding": reader.take("atom_emb.embeddings.weight", NUM_ELEMENTS, features)
        },
        "node_encoder_in": reader.dense("_encoder._node_fn.mlp.NN-0", features, hidden),
        "node_encoder": rest("_encoder._node_fn"),
        "edge_encoder_in": reader.dense(
            "_encoder._edge_fn.mlp.NN-0", NUM_RADIAL * NUM_ANGULAR, hidden
        ),
        "edge_encoder": rest("_encoder._edge_fn"),
    }
    for k in range(steps):
        layer = f"gnn_stacks.{k}"
        params[f"interaction_{k}"] = {
            # In orb-models, edges go from the centre (sender) to its neighbour (receiver).
            **first_of_three(
                f"{layer}._edge_mlp", ("edge_from_edge", "edge_from_centre", "edge_from_neighbour")
            ),
            "edge": rest(f"{layer}._edge_mlp"),
            **first_of_three(
                f"{layer}._node_mlp",
                ("node_from_node", "node_from_neighbour_sum", "node_from_centre_sum"),
            ),
            "node": rest(f"{layer}._node_mlp"),
            "neighbour_gate": reader.dense(f"{layer}._receive_attn", features, 1),
            "centre_gate": reader.dense(f"{layer}._send_attn", features, 1),
        }
    return params
