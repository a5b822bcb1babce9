"""Loss and gradient of one contrastive batch, for ONE device; sums over devices are the step's.

A batch in chunks is encoded chunk by chunk with gradient caching (GradCache, arXiv:2101.06983): the
only the activations of one chunk are in memory, and the gradient is still that of the full batch,
each example contrasted with all others. Every chunk is encoded twice: once for its features, and
once more to carry the gradient of the loss by these features on to the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.clac import Encoded
from clac_jax.training.losses import Loss


class BatchGradient(NamedTuple):
    """What one batch gives.

    Attributes:
        grads: of this device's share of the loss, like the parameters; to be summed over devices.
        batch_stats: the new ones, the same on every device.
        terms: of the loss, the same on every device.
    """

    grads: Any
    batch_stats: Any
    terms: dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class GradientFunction:
    """(params, batch_stats, batch, key) -> BatchGradient.

    A batch whose leaves have a leading axis of chunks is encoded chunk by chunk, which takes a
    model with `CLaC.encode` and `CLaC.contrast` and without batch statistics in its towers; any
    other model takes batches in one piece.

    Attributes:
        apply_fn: `apply` of the model.
        loss: what is minimized.
        trainable: a tree of booleans like the parameters; no gradient is computed where False.
        axis_name: the mapped axis of the devices, or None on one device without a map.
    """

    apply_fn: Callable[..., Any]
    loss: Loss
    trainable: Any
    axis_name: str | None

    def __call__(
        self, params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> BatchGradient:
        """Args: state, the batch, and the key of dropout and draws, the same on every device."""
        in_chunks = batch.example_mask.ndim == 2
        gradient = self._cached if in_chunks else self._plain
        return gradient(params, batch_stats, batch, key)

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
        def encode(params: Any, chunk: Batch) -> tuple[Encoded, jax.Array | None]:
            """What is differentiated, and the number of labelled tokens, which is not."""
            encoded: Encoded = self.apply_fn(
                {"params": self._frozen(params), "batch_stats": batch_stats},
                chunk,
                train=True,
                key=key,
                axis_name=self.axis_name,
                method="encode",
            )
            return dataclasses.replace(encoded, lm_num_tokens=None), encoded.lm_num_tokens

        # The loss and the contrasts read only these two from the batch.
        full = dataclasses.replace(
            batch,
            example_mask=batch.example_mask.reshape(-1),
            example_index=batch.example_index.reshape(-1),
        )

        def share(
            params: Any, chunks: Encoded, num_tokens: jax.Array | None
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            output, updated = self.apply_fn(
                {"params": self._frozen(params), "batch_stats": batch_stats},
                joined(dataclasses.replace(chunks, lm_num_tokens=num_tokens)),
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

        # Outside of what is differentiated, so that no activations are kept.
        chunks, num_tokens = jax.lax.map(lambda chunk: encode(params, chunk), batch)
        (_, (new_stats, terms)), (head_grads, feature_grads) = jax.value_and_grad(
            share, argnums=(0, 1), has_aux=True
        )(params, chunks, num_tokens)

        def add_chunk(grads: Any, inputs: tuple[Batch, Encoded]) -> tuple[Any, None]:
            chunk, grads_of_features = inputs
            _, pull_back, _ = jax.vjp(lambda p: encode(p, chunk), params, has_aux=True)
            (grads_of_chunk,) = pull_back(grads_of_features)
            return jax.tree.map(jnp.add, grads, grads_of_chunk), None

        # Those of the towers are zero so far: the loss has seen features, no towers.
        grads, _ = jax.lax.scan(add_chunk, head_grads, (batch, feature_grads))
        return BatchGradient(grads, new_stats, terms)

    def _frozen(self, params: Any) -> Any:
        return jax.tree.map(
            lambda leaf, train: leaf if train else jax.lax.stop_gradient(leaf),
            params,
            self.trainable,
        )


def joined(chunks: Encoded) -> Encoded:
    """The full batch from what its chunks gave.

    Args:
        chunks: features (C, V, b, F), sums of the language-model loss (C, V).

    Returns:
        Features (V, C * b, F), chunk after chunk, and the sums over all chunks (V,).
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
        lm_num_tokens=total(chunks.lm_num_tokens),
    )
