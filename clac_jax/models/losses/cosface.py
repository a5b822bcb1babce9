"""CosFace: InfoNCE with a margin (arXiv:1801.09414)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.config.effects import NEXT_STEP
from clac_jax.config.key import key
from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch
from clac_jax.models.losses.settings import PairLoss, Side


@dataclass(frozen=True)
class CosFace(PairLoss):
    """InfoNCE with a margin subtracted from the cosine of each matched pair.

    The temperature is learned, as in the other losses.
    """

    margin: float = key(
        0.2,
        "margin on the cosine of a matched pair",
        low=0.0,
        on_change=NEXT_STEP,
        validation="batch",
    )

    def __call__(  # noqa: D102
        self, batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side
    ) -> Float[jax.Array, ""]:
        assert pair.log_scale is not None, "a critic has no cosines: `heads` excludes one"
        margin = self.margin * jnp.exp(pair.log_scale) * batch.is_own()
        forward = batch.cross_entropy(pair.scores(left[0], right[1]) - margin)
        backward = batch.cross_entropy(pair.scores(right[0], left[1]) - margin)
        return 0.5 * (forward + backward)
