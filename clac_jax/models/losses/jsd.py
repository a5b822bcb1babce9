"""The Jensen-Shannon loss of CLIP-Lite (arXiv:2112.07133), with its critics and priors."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float

from clac_jax.config.effects import NEXT_STEP, OTHER_MODEL
from clac_jax.config.key import key
from clac_jax.models.heads import ProjectedPair
from clac_jax.models.losses.global_batch import GlobalBatch
from clac_jax.models.losses.settings import HeadOptions, PairLoss, Side

# The scores between crystals and texts, and between two views of one modality.
_CRITICS = {
    "dot": ("dot", "dot"),
    "concat": ("concat", "concat"),
    "condot": ("concat", "dot"),
    "dotcon": ("dot", "concat"),
}


@dataclass(frozen=True)
class JSD(PairLoss):
    """Jensen-Shannon bound on mutual information.

    Each row has one negative: its partner after rolling the batch by a random shift. Without a key,
    all other examples are negatives, which equals the mean over all shifts.
    """

    critic: str = key(
        "dot",
        "what scores crystals against texts, and two views of one modality against each other: "
        "products for both, perceptrons for both (concat), or one of each",
        choices=tuple(_CRITICS),
        on_change=OTHER_MODEL,
        validation="model",
    )
    crystal_prior: bool = key(
        True,
        "whether a prior draws the crystals' features towards a uniform distribution",
        on_change=OTHER_MODEL,
        validation="batch",
    )
    text_prior: bool = key(
        True,
        "whether a prior draws the texts' features towards a uniform distribution",
        on_change=OTHER_MODEL,
        validation="batch",
    )
    prior_weight: float = key(
        0.1,
        "weight of the priors; the contrastive terms get the rest",
        low=0.0,
        high=1.0,
        on_change=NEXT_STEP,
        validation="batch",
    )

    @property
    def heads(self) -> HeadOptions:  # noqa: D102
        cross, intra = _CRITICS[self.critic]
        return HeadOptions(
            cross, intra, crystal_prior=self.crystal_prior, text_prior=self.text_prior
        )

    @property
    def share_of_priors(self) -> float:  # noqa: D102
        return self.prior_weight

    def __call__(  # noqa: D102
        self, batch: GlobalBatch, pair: ProjectedPair, left: Side, right: Side
    ) -> Float[jax.Array, ""]:
        matched = jax.nn.softplus(-pair.scores_of_rows(left[0], right[0]))
        if batch.key is None:
            others = batch.columns & ~batch.is_own()
            scores = jax.nn.softplus(pair.scores(left[0], right[1]))
            number = jnp.maximum(batch.count - 1, 1)
            return batch.mean(matched + jnp.sum(jnp.where(others, scores, 0), axis=1) / number)
        shift = jax.random.randint(batch.key, (), 1, jnp.maximum(batch.count, 2))
        negatives = right[1][batch.partner(shift)]
        return batch.mean(matched + jax.nn.softplus(pair.scores_of_rows(left[0], negatives)))
