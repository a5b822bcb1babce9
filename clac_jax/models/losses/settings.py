"""The base class of contrastive losses and their settings."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Float

from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch

Side = tuple[Float[jax.Array, "examples features"], Float[jax.Array, "columns features"]]
"""A view on this device, (B, P), and that view on all devices, (devices * B, P)."""


@dataclass(frozen=True)
class HeadOptions:
    """Requirements of a loss on the model's heads.

    Attributes:
        cross_critic: how crystals and texts are scored, "dot" or "concat" (a perceptron).
        intra_critic: how two views of one modality are scored, "dot" or "concat".
        has_bias: whether every score has a learned bias.
        bias_init: initial value of the bias.
        crystal_prior: whether crystal features are pulled towards a uniform prior.
        text_prior: whether text features are pulled towards a uniform prior.
    """

    cross_critic: str = "dot"
    intra_critic: str = "dot"
    has_bias: bool = False
    bias_init: float = 0.0
    crystal_prior: bool = False
    text_prior: bool = False


@dataclass(frozen=True)
class PairLoss:
    """A contrastive loss: its settings, and the loss of one pair of views.

    A kind of loss is a frozen subclass in a file of its own, with its fields declared by
    `config.key.key`, plus one line in `LOSSES`. Its fields are read by name from the config group
    `loss`.
    """

    def __call__(
        self, batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side
    ) -> Float[jax.Array, ""]:
        """This device's share of the loss of two views, (): the sum over devices is the loss.

        Args:
            batch: this device's rows among the columns of all devices.
            pair: scores the views, `pair.scores(left[0], right[1])`.
            left: one view of one modality.
            right: one view of the other modality, or the second view of the first modality.
        """
        raise NotImplementedError

    @property
    def heads(self) -> HeadOptions:
        """The head options that the loss requires of the model."""
        return HeadOptions()

    @property
    def share_of_priors(self) -> float:
        """Weight of the priors if the model has any; the contrasts get the rest."""
        return 0.0
