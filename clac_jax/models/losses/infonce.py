"""InfoNCE, the loss of CLIP (arXiv:2103.00020) and CLaC (arXiv:2502.16451)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Float

from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch
from clac_jax.models.losses.settings import PairLoss, Side


@dataclass(frozen=True)
class InfoNCE(PairLoss):
    """Symmetric cross-entropy of finding the matching partner in the batch."""

    def __call__(  # noqa: D102
        self, batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side
    ) -> Float[jax.Array, ""]:
        forward = batch.cross_entropy(pair.scores(left[0], right[1]))
        backward = batch.cross_entropy(pair.scores(right[0], left[1]))
        return 0.5 * (forward + backward)
