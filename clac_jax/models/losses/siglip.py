"""The sigmoid loss of SigLIP (arXiv:2303.15343)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.config.effects import FRESH_RUNS
from clac_jax.config.key import key
from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch
from clac_jax.models.losses.settings import HeadOptions, PairLoss, Side


@dataclass(frozen=True)
class SigLIP(PairLoss):
    """Classifies every pair of the batch independently as matched or not."""

    logit_bias_init: float = key(
        -10.0,
        "first value of the learned bias; below zero because most pairs do not match",
        on_change=FRESH_RUNS,
    )

    @property
    def heads(self) -> HeadOptions:  # noqa: D102
        return HeadOptions(has_bias=True, bias_init=self.logit_bias_init)

    def __call__(  # noqa: D102
        self, batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side
    ) -> Float[jax.Array, ""]:
        scores = pair.scores(left[0], right[1])
        losses = jax.nn.softplus(jnp.where(batch.is_own(), -scores, scores))
        return batch.mean(jnp.sum(jnp.where(batch.columns, losses, 0), axis=1))
