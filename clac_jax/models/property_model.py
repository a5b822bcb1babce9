"""A graph encoder with a linear head, for one property of a crystal."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from clac_jax.input_pipeline.batch import Batch


@flax.struct.dataclass
class PropertyOutput:
    """What a property model returns.

    Attributes:
        outputs: (B, 1) normalized prediction, or (B, C) logits of the classes.
        mean: () of the labels of the training split; 0 for classes.
        std: () of them; 1 for classes.
    """

    outputs: Float[jax.Array, "examples outputs"]
    mean: Float[jax.Array, ""]
    std: Float[jax.Array, ""]

    @property
    def values(self) -> Float[jax.Array, "examples"]:
        """(B,) predictions in the unit of the labels."""
        return self.outputs[:, 0] * self.std + self.mean


class PropertyModel(nn.Module):
    """Crystals -> graph encoder -> linear head.

    The normalization of the labels is among the batch statistics, so that a checkpoint has all that
    a prediction needs.

    Attributes:
        graph_encoder: crystals -> (rows, F).
        num_outputs: 1 for a number, else the classes.
    """

    graph_encoder: nn.Module
    num_outputs: int = 1

    @nn.compact
    def __call__(
        self,
        batch: Batch,
        *,
        train: bool = False,
        key: Key[jax.Array, ""] | None = None,
        axis_name: str | None = None,
    ) -> PropertyOutput:
        """Predicts for each crystal; `key` is that of other models, here nothing is random."""
        del key
        mean = self.variable("batch_stats", "label_mean", jnp.zeros, ())
        std = self.variable("batch_stats", "label_std", jnp.ones, ())
        features = self.graph_encoder(batch.graphs, train=train, axis_name=axis_name)
        outputs: jax.Array = nn.Dense(self.num_outputs, name="property_head")(features)
        return PropertyOutput(outputs, mean.value, std.value)
