"""A graph encoder with a linear head that predicts one property of a crystal."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from clac_jax.input_pipeline.batch import Batch


@flax.struct.dataclass
class PropertyOutput:
    """The output of a property model.

    Attributes:
        outputs: (B, 1) normalized predictions, or (B, C) class logits.
        mean: () mean label of the training split; 0 for classes.
        std: () standard deviation of these labels; 1 for classes.
    """

    outputs: Float[jax.Array, "examples outputs"]
    mean: Float[jax.Array, ""]
    std: Float[jax.Array, ""]

    @property
    def values(self) -> Float[jax.Array, "examples"]:
        """(B,) predictions in the unit of the labels."""
        return self.outputs[:, 0] * self.std + self.mean


class PropertyModel(nn.Module):
    """Crystals -> graph encoder -> linear head; a fresh head is zero and predicts the mean label.

    The label normalization is stored with the batch statistics, so that a checkpoint contains
    everything needed for a prediction.

    Attributes:
        graph_encoder: crystals -> (rows, F).
        num_outputs: 1 for a number, otherwise the number of classes.
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
        """Predicts the property of each crystal; `key` is unused, as nothing here is random."""
        del key
        mean = self.variable("batch_stats", "label_mean", jnp.zeros, ())
        std = self.variable("batch_stats", "label_std", jnp.ones, ())
        features = self.graph_encoder(batch.graphs, train=train, axis_name=axis_name)
        # A pretrained encoder's features are large: a random head would first guess many standard
        # deviations off, and the steps that correct it would undo what the encoder has learned.
        head = nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros, name="property_head")
        outputs: jax.Array = head(features)
        return PropertyOutput(outputs, mean.value, std.value)
