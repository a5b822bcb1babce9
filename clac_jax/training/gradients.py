"""Loss and gradient of one contrastive batch, for ONE device; the step sums over devices.

A batch in chunks is encoded chunk by chunk with gradient caching (GradCache, arXiv:2101.06983).
Only the activations of one chunk are in memory, yet the gradient is that of the full batch, with
each example contrasted with all others. Every chunk is encoded twice: once for its features, and
once more to propagate the gradient of the loss from these features to the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.clac import Constants, Encoded
from clac_jax.training.losses import Loss


class BatchGradient(NamedTuple):
    """The gradient of one batch.

    Attributes:
        grads: gradient of this device's share of the loss, a tree like the parameters; to be summed
            over devices.
        batch_stats: updated batch statistics, the same on every device.
        terms: terms of the loss, the same on every device.
    """

    grads: Any
    batch_stats: Any
    terms: dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class GradientFunction:
    """(params, batch_stats, batch, key) -> BatchGradient.

    A batch whose leaves have a leading axis of chunks is encoded chunk by chunk. This requires a
    model with `CLaC.encode` and `CLaC.contrast` whose towers have no batch statistics; any other
    model takes unchunked batches.

    Attributes:
        apply_fn: `apply` of the model.
        loss: the loss to minimize.
        trainable: a tree of booleans like the parameters; no gradient is computed where False.
        axis_name: mapped axis of the devices, or None on a single device without a map.
    """

    apply_fn: Callable[..., Any]
    loss: Loss
    trainable: Any
    axis_name: str | None

    def __call__(
        self, params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> BatchGradient:
        """Args: state, batch, and the key for dropout and sampling, the same on every device."""
        in_chunks = batch.example_mask.ndim == 2
        gradient = self._cached if in_chunks else self._plain
        return gradient(params, batch_stats, batch, key)

    def forward(
        self, params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> tuple[Any, Batch]:
        """The output of the model in training, and the batch without its axis of chunks.

        Arguments as for the gradient, which computes the same.
        """
        variables = {"params": params, "batch_stats": batch_stats}
        shared: dict[str, Any] = {"train": True, "key": key, "axis_name": self.axis_name}
        if batch.example_mask.ndim == 1:
            output, _ = self.apply_fn(variables, batch, **shared, mutable=["batch_stats"])
            return output, batch
        full = _unchunked(batch)
        chunks = jax.lax.map(
            lambda chunk: self.apply_fn(variables, chunk, **shared, method="encode"), batch
        )
        masks = full.example_mask, full.example_index
        output, _ = self.apply_fn(
            variables, joined(chunks), *masks, **shared, method="contrast", mutable=["batch_stats"]
        )
        return output, full

    def _plain(self, params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> BatchGradient:
        def share(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            output, updated = self.apply_fn(
                {"params": self._frozen(params), "batch_stats": batch_stats},
                batch,
                train=True,
                key=key,
                axis_name=self.axis_name,
                mutable=["batch_stats"],
            )
            value, terms = self.loss(output, batch, axis_name=self.axis_name, key=key)
            return value, (updated.get("batch_stats", {}), terms)

        (_, (new_stats, terms)), grads = jax.value_and_grad(share, has_aux=True)(params)
        return BatchGradient(grads, new_stats, terms)

    def _cached(self, params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> BatchGradient:
        # Outside the differentiated function, so that no activations are kept.
        chunks, constants = jax.lax.map(
            lambda chunk: self.encode(params, batch_stats, chunk, key), batch
        )
        head_grads, feature_grads, new_stats, terms = self.of_features(
            params, batch_stats, (chunks, constants), batch, key
        )

        def add_chunk(grads: Any, inputs: tuple[Batch, Encoded]) -> tuple[Any, None]:
            grads_of_chunk = self.of_chunk(params, batch_stats, *inputs, key)
            return jax.tree.map(jnp.add, grads, grads_of_chunk), None

        # The tower gradients are still zero: the loss depends on features, not on the towers.
        grads, _ = jax.lax.scan(add_chunk, head_grads, (batch, feature_grads))
        return BatchGradient(grads, new_stats, terms)

    def encode(
        self, params: Any, batch_stats: Any, chunk: Batch, key: jax.Array
    ) -> tuple[Encoded, Constants]:
        """The features of a chunk, and apart from them what is not differentiated."""
        encoded: Encoded = self.apply_fn(
            {"params": self._frozen(params), "batch_stats": batch_stats},
            chunk,
            train=True,
            key=key,
            axis_name=self.axis_name,
            method="encode",
        )
        return dataclasses.replace(encoded, constants=Constants()), encoded.constants

    def of_features(
        self,
        params: Any,
        batch_stats: Any,
        encoded: tuple[Encoded, Constants],
        batch: Batch,
        key: jax.Array,
    ) -> tuple[Any, Encoded, Any, dict[str, jax.Array]]:
        """The gradient with respect to the heads and to the features of all chunks.

        Args:
            params: the parameters.
            batch_stats: the batch statistics.
            encoded: results of `encode`, stacked over the chunks.
            batch: its mask and index are those of all chunks; nothing else is read from it.
            key: as for `__call__`.

        Returns:
            The two gradients, the updated batch statistics, and the terms of the loss.
        """
        full = _unchunked(batch)

        def share(
            params: Any, chunks: Encoded, constants: Constants
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            output, updated = self.apply_fn(
                {"params": self._frozen(params), "batch_stats": batch_stats},
                joined(dataclasses.replace(chunks, constants=constants)),
                full.example_mask,
                full.example_index,
                train=True,
                key=key,
                axis_name=self.axis_name,
                method="contrast",
                mutable=["batch_stats"],
            )
            value, terms = self.loss(output, full, axis_name=self.axis_name, key=key)
            return value, (updated.get("batch_stats", {}), terms)

        (_, (new_stats, terms)), (head_grads, feature_grads) = jax.value_and_grad(
            share, argnums=(0, 1), has_aux=True
        )(params, *encoded)
        return head_grads, feature_grads, new_stats, terms

    def of_chunk(
        self, params: Any, batch_stats: Any, chunk: Batch, feature_grads: Encoded, key: jax.Array
    ) -> Any:
        """The gradient with respect to the towers, from that to the features of a chunk."""
        _, pull_back, _ = jax.vjp(
            lambda p: self.encode(p, batch_stats, chunk, key), params, has_aux=True
        )
        (grads,) = pull_back(feature_grads)
        return grads

    def _frozen(self, params: Any) -> Any:
        return jax.tree.map(
            lambda leaf, train: leaf if train else jax.lax.stop_gradient(leaf),
            params,
            self.trainable,
        )


def joined(chunks: Encoded) -> Encoded:
    """The full batch, joined from its encoded chunks.

    Args:
        chunks: features (C, V, b, F), sums of the language-model loss (C, V), targets (C, b, ...).

    Returns:
        Features (V, C * b, F) and targets (C * b, ...) in chunk order, and the sums over all
        chunks (V,).
    """

    def side_by_side(x: jax.Array) -> jax.Array:
        num_chunks, num_views, size, width = x.shape
        return jnp.moveaxis(x, 0, 1).reshape(num_views, num_chunks * size, width)

    def total(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else jnp.sum(x, axis=0)

    return Encoded(
        graphs=side_by_side(chunks.graphs),
        texts=side_by_side(chunks.texts),
        lm_loss_sum=total(chunks.lm_loss_sum),
        constants=Constants(
            total(chunks.constants.lm_num_tokens),
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunks.constants.structure),
        ),
    )


def _unchunked(batch: Batch) -> Batch:
    """A batch in chunks with the mask and the index of all its examples.

    The loss and the contrasts read only these from the batch.
    """
    return dataclasses.replace(
        batch,
        example_mask=batch.example_mask.reshape(-1),
        example_index=batch.example_index.reshape(-1),
    )
