"""PaiNN as dense products over tiles of atoms.

Schuett, Unke, Gastegger, "Equivariant message passing for the prediction of tensorial properties
and molecular spectra", arXiv:2102.03150, with the update block of the CLaC reference (its ``dv``
scales the raw ``v``).

Two facts turn a layer's messages into matrix products, exactly:

* The filter is linear in the radial basis, and the rest of a message depends only on the sender.
  So the basis can be summed over all periodic images of a pair of atoms, once for all layers.
* The crystals are packed into tiles (`clac_jax.input_pipeline.batch`), so for each basis function
  ``k`` the summed basis is one small matrix ``A_k`` over the atoms of a tile, and a layer's sum of
  messages is ``sum_k w_k * (A_k x)``.

The scan over ``k`` keeps the working set in the cache. Materializing the product for all ``k``,
the filter of all pairs, or the messages of all edges was three to four times slower on CPU at the
paper's sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from clac_jax.config.key import key
from clac_jax.crystals.elements import NUM_FEATURES
from clac_jax.input_pipeline.batch import GraphBatch
from clac_jax.input_pipeline.tiles import num_pairs
from clac_jax.models.anatomy import Anatomy, Layers, dense_axes
from clac_jax.models.graph.ops import node_features, safe_norm, sum_pool
from clac_jax.models.graph.settings import GraphEncoderSettings, Params
from clac_jax.models.remat import remat_block
from clac_jax.models.torch_layout import TensorReader, count_layers
from clac_jax.typing import Array


@dataclass(frozen=True)
class PaiNNSettings(GraphEncoderSettings):
    """Sizes of a PaiNN; edges longer than its cutoff do not affect its output."""

    num_features: int = key(512, "width of an atom's features", low=1)
    num_interactions: int = key(5, "message-passing steps", low=0)
    num_rbf: int = key(20, "radial basis functions", low=1)

    release_names = {  # noqa: RUF012
        "num_feat": "num_features",
        "out_dim": "out_dim",
        "cut_off": "cutoff",
        "n_rbf": "num_rbf",
        "num_interactions": "num_interactions",
    }

    def build(self, dtype: str | None = None, remat: bool = False) -> PaiNN:  # noqa: D102
        return PaiNN(self, dtype, remat)

    def anatomy(self) -> Anatomy:  # noqa: D102
        # Scalars and vectors share their units: the gates multiply vectors unit by unit.
        message, update = r"message_\d+", r"update_\d+"
        return Anatomy(
            axes={
                **dense_axes("embedding", "_ -> features"),
                **dense_axes(f"{message}/hidden", "features -> features"),
                **dense_axes(f"{message}/phi", "features -> 3 features"),
                f"{message}/filter_kernel": "waves -> 3 features",
                f"{message}/filter_bias": "-> 3 features",
                **dense_axes(f"{update}/[uv]", "features -> features"),
                **dense_axes(f"{update}/hidden", "2 features -> features"),
                **dense_axes(f"{update}/gates", "features -> 3 features"),
                **dense_axes("readout_hidden", "features -> features"),
                **dense_axes("readout", "features -> out"),
            },
            output="out",
            rows={"waves": "zeros"},
            layers=(
                Layers(
                    r"(?:message|update)_(\d+)/",
                    "interaction",
                    {f"{message}/phi/.*": 0, f"{update}/gates/.*": 0},
                ),
            ),
        )

    @classmethod
    def release_sizes(cls, tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:  # noqa: D102
        if "list_message.0.lin1.weight" not in tensors:
            return None
        sizes = {
            "num_features": tensors["embedding.weight"].shape[0],
            "out_dim": tensors["lin2.weight"].shape[0],
            "num_rbf": tensors["list_message.0.lin_rbf.weight"].shape[1],
            "num_interactions": count_layers(tensors, r"list_message\.(\d+)\.lin1\.weight"),
        }
        waves = tensors.get("list_message.0.RBF.freqs")  # pi / cutoff, 2 pi / cutoff, ...
        if waves is not None and waves.size and 0.1 < float(waves.flat[0]) < 10:
            sizes["cutoff"] = round(math.pi / float(waves.flat[0]), 4)
        return sizes

    def release_params(self, tensors: TensorReader) -> Params:  # noqa: D102
        size = self.num_features
        params: Params = {
            "embedding": tensors.dense("embedding", NUM_FEATURES, size),
            "readout_hidden": tensors.dense("lin1", size, size),
            "readout": tensors.dense("lin2", size, self.out_dim),
        }
        for k in range(self.num_interactions):
            message, update = f"list_message.{k}", f"list_update.{k}"
            kernel, bias = tensors.dense(f"{message}.lin_rbf", self.num_rbf, 3 * size).values()
            params[f"message_{k}"] = {
                "hidden": tensors.dense(f"{message}.lin1", size, size),
                "phi": tensors.dense(f"{message}.lin2", size, 3 * size),
                "filter_kernel": kernel,
                "filter_bias": bias,
            }
            params[f"update_{k}"] = {
                "u": tensors.dense(f"{update}.denseU", size, size, use_bias=False),
                "v": tensors.dense(f"{update}.denseV", size, size, use_bias=False),
                "hidden": tensors.dense(f"{update}.lin_up", 2 * size, size),
                "gates": tensors.dense(f"{update}.lin2", size, 3 * size),
            }
        return params


@dataclass(frozen=True)
class TileBasis:
    """Radial basis of the atom pairs in ``n`` tiles of ``T`` nodes, summed over periodic images.

    Attributes:
        scalar: (K, n, T, T) sum of R_k(d); receivers first, senders last.
        vector: (K, n, T * 3, T) sum of R_k(d) times each component of the unit vector.
    """

    scalar: Float[jax.Array, "basis tiles size size"]
    vector: Float[jax.Array, "basis tiles 3*size size"]


def radial_basis(
    distances: Float[jax.Array, "edges"], cutoff: float, num_rbf: int
) -> Float[jax.Array, "edges {num_rbf}+1"]:
    """(E, num_rbf + 1): sin(n pi d / cutoff) / d for n = 1.., and 1, times the cosine cutoff.

    The last column carries the filter's bias. A zero distance is divided by one, as in the
    reference. Distances and cutoff are in angstrom; the result is 0 from the cutoff on.
    """
    d = distances[:, None]
    envelope = jnp.where(d < cutoff, 0.5 * (jnp.cos(jnp.pi / cutoff * d) + 1), 0)
    order = jnp.arange(1, num_rbf + 1, dtype=d.dtype)
    waves = jnp.sin(order * (jnp.pi / cutoff) * d) / jnp.where(d > 0, d, 1)
    return jnp.concatenate([waves * envelope, envelope], axis=1)


def tile_basis(graphs: GraphBatch, cutoff: float, num_rbf: int) -> list[TileBasis]:
    """The basis of every pair of atoms that share a tile, one entry per tile size.

    Edge vectors are data: no gradient flows to them.
    """
    edges = jax.lax.stop_gradient(jnp.asarray(graphs.edge_vectors))
    distances = safe_norm(edges, axis=1)
    units = edges / jnp.where(distances > 0, distances, 1)[:, None]
    radial = radial_basis(distances, cutoff, num_rbf)
    size_k = num_rbf + 1
    per_edge = jnp.concatenate(
        [radial, (units[:, :, None] * radial[:, None, :]).reshape(-1, 3 * size_k)], axis=1
    )
    # Padding edges index one past the last pair and are dropped.
    pairs = jnp.zeros((num_pairs(graphs.tiles), 4 * size_k), edges.dtype)
    pairs = pairs.at[graphs.pair_index].add(per_edge, mode="drop")
    bases = []
    first = 0
    for size, count in graphs.tiles:
        block = pairs[first : first + count * size * size].reshape(count, size, size, 4, size_k)
        first += count * size * size
        block = jnp.transpose(block, (4, 0, 1, 3, 2))  # k, tile, receiver, component, sender
        bases.append(
            TileBasis(
                scalar=block[:, :, :, 0, :],
                vector=block[:, :, :, 1:, :].reshape(size_k, count, size * 3, size),
            )
        )
    return bases


@jax.custom_vjp
def basis_product(
    basis: Float[jax.Array, "basis tiles receivers senders"],
    x: Float[jax.Array, "tiles senders channels"],
    weights: Float[jax.Array, "basis channels"],
) -> Float[jax.Array, "tiles receivers channels"]:
    """``sum_k weights[k] * (basis[k] @ x)``, without ever holding all K products in memory.

    Sums are accumulated in float32 or wider, whatever the dtype of the operands.

    Args:
        basis: (K, n, S, T) constants; their gradient is not computed.
        x: (n, T, C) features of the senders.
        weights: (K, C) filter weights.

    Returns:
        (n, S, C).
    """

    def add(total: jax.Array, term: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        matrix, weight = term
        return total + jnp.matmul(matrix, x, preferred_element_type=wide) * weight, None

    wide = jnp.promote_types(x.dtype, jnp.float32)
    zero = jnp.zeros((*basis.shape[1:3], x.shape[-1]), wide)
    return jax.lax.scan(add, zero, (basis, weights))[0].astype(x.dtype)


def _basis_product_forward(
    basis: jax.Array, x: jax.Array, weights: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return basis_product(basis, x, weights), (basis, x, weights)


def _basis_product_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], grad: Array
) -> tuple[None, jax.Array, jax.Array]:
    basis, x, weights = saved

    # One product serves both gradients: <basis[k] @ x, grad> = <x, basis[k]^T @ grad>.
    def add(total: jax.Array, term: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        matrix, weight = term
        back = jnp.matmul(jnp.swapaxes(matrix, 1, 2), grad, preferred_element_type=wide)
        return total + back * weight, jnp.sum(back * x, axis=(0, 1))

    wide = jnp.promote_types(x.dtype, jnp.float32)
    grad_x, grad_weights = jax.lax.scan(add, jnp.zeros(x.shape, wide), (basis, weights))
    return None, grad_x.astype(x.dtype), grad_weights.astype(weights.dtype)


basis_product.defvjp(_basis_product_forward, _basis_product_backward)


class Message(nn.Module):
    """The sum of the messages that each node receives.

    Attributes:
        dtype: dtype of the arithmetic; None: that of the parameters.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        s: Float[jax.Array, "nodes features"],
        v: Float[jax.Array, "nodes 3 features"] | None,
        bases: list[TileBasis],
    ) -> tuple[Float[jax.Array, "nodes features"], Float[jax.Array, "nodes 3 features"]]:
        """Computes the residuals of one message step.

        Args:
            s: (N, F) scalars.
            v: (N, 3, F) vectors, or None if they are all zero.
            bases: pair basis of the batch.

        Returns:
            Residuals (N, F) and (N, 3, F).
        """
        features = s.shape[-1]
        size_k = bases[0].scalar.shape[0]
        hidden = nn.silu(nn.Dense(features, dtype=self.dtype, name="hidden")(s))
        phi = nn.Dense(3 * features, dtype=self.dtype, name="phi")(hidden)
        filter_kernel = self.param(
            "filter_kernel", nn.initializers.lecun_normal(), (size_k - 1, 3 * features)
        )
        filter_bias = self.param("filter_bias", nn.initializers.zeros, (3 * features,))
        weights = jnp.concatenate([filter_kernel, filter_bias[None]], axis=0).astype(s.dtype)
        w_left, w_scalar, w_right = jnp.split(weights, 3, axis=1)
        left, scalar, right = jnp.split(phi, 3, axis=1)
        if v is None:
            senders, w_senders = scalar, w_scalar
        else:
            carried = (v * left[:, None, :]).reshape(-1, 3 * features)
            senders = jnp.concatenate([scalar, carried], axis=1)
            w_senders = jnp.concatenate([w_scalar, w_left, w_left, w_left], axis=1)
        ds, dv = [], []
        first = 0
        for basis in bases:
            _, count, size, _ = basis.scalar.shape
            nodes = slice(first, first + count * size)
            first = nodes.stop
            received = basis_product(
                basis.scalar, senders[nodes].reshape(count, size, -1), w_senders
            ).reshape(count * size, -1)
            new = basis_product(
                basis.vector, right[nodes].reshape(count, size, features), w_right
            ).reshape(count * size, 3, features)
            ds.append(received[:, :features])
            dv.append(new if v is None else new + received[:, features:].reshape(new.shape))
        return jnp.concatenate(ds), jnp.concatenate(dv)


class Update(nn.Module):
    """Mixes the scalars and vectors of each node.

    Attributes:
        dtype: dtype of the arithmetic; None: that of the parameters.
    """

    dtype: Any = None

    @nn.compact
    def __call__(
        self, s: Float[jax.Array, "nodes features"], v: Float[jax.Array, "nodes 3 features"]
    ) -> tuple[Float[jax.Array, "nodes features"], Float[jax.Array, "nodes 3 features"]]:
        """(N, F), (N, 3, F) -> residuals of the same shapes."""
        features = s.shape[-1]

        def dense(width: int, name: str, use_bias: bool = True) -> nn.Dense:
            return nn.Dense(width, use_bias=use_bias, dtype=self.dtype, name=name)

        u_v = dense(features, "u", use_bias=False)(v)
        v_v = dense(features, "v", use_bias=False)(v)
        invariants = jnp.concatenate([s, safe_norm(v_v, axis=1)], axis=1)
        hidden = nn.silu(dense(features, "hidden")(invariants))
        gates = dense(3 * features, "gates")(hidden)
        top, middle, bottom = jnp.split(gates, 3, axis=1)
        ds = middle * jnp.sum(u_v * v_v, axis=1) + bottom
        return ds, v * top[:, None, :]


class PaiNN(nn.Module):
    """Equivariant message passing, sum-pooled to one vector per crystal.

    Attributes:
        settings: sizes of the network.
        dtype: dtype of the arithmetic; None: that of the parameters.
        remat: whether the backward pass recomputes the inside of each message and update.
    """

    settings: PaiNNSettings
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, graphs: GraphBatch, *, train: bool = False, axis_name: str | None = None
    ) -> Float[jax.Array, "crystals {self.settings.out_dim}"]:
        """Encodes crystals.

        Args:
            graphs: packed crystals.
            train: unused; PaiNN behaves the same in training.
            axis_name: unused.

        Returns:
            (rows, out_dim); zeros for padding rows.
        """
        del train, axis_name
        sizes = self.settings

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, name=name)

        s = dense(sizes.num_features, "embedding")(node_features(graphs))
        bases = [
            TileBasis(basis.scalar.astype(s.dtype), basis.vector.astype(s.dtype))
            for basis in tile_basis(graphs, sizes.cutoff, sizes.num_rbf)
        ]

        def interaction(k: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            s, v = state
            ds, dv = Message(self.dtype, name=f"message_{k}")(s, None if k == 0 else v, bases)
            s, v = s + ds, dv if k == 0 else v + dv
            ds, dv = Update(self.dtype, name=f"update_{k}")(s, v)
            return s + ds, v + dv

        # Not read, since there are no vectors before the first interaction.
        v = jnp.zeros((s.shape[0], 3, s.shape[1]), s.dtype)
        for k in range(sizes.num_interactions):
            s, v = remat_block(self, functools.partial(interaction, k))((s, v))
        y = nn.silu(dense(sizes.num_features, "readout_hidden")(s))
        return sum_pool(graphs, dense(sizes.out_dim, "readout")(y))
