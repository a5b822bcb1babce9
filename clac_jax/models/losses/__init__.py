"""Contrastive losses of pairs of views: what a loss computes, and what it asks of the heads.

Adding one takes a file beside these and a line in `LOSSES`: docs/add-a-loss.md.
"""

from __future__ import annotations

from clac_jax.models.losses.cosface import CosFace
from clac_jax.models.losses.infonce import InfoNCE
from clac_jax.models.losses.jsd import JSD
from clac_jax.models.losses.settings import PairLoss
from clac_jax.models.losses.siglip import SigLIP

# `loss.name` of a config -> the kind of loss. Nothing else in the package names one.
LOSSES: dict[str, type[PairLoss]] = {
    "infonce": InfoNCE,
    "cosface": CosFace,
    "siglip": SigLIP,
    "jsd": JSD,
}
