"""Contrastive losses of pairs of views, and the head options that each loss requires.

To add one, write a file in this folder and a line in `LOSSES`: docs/add-a-loss.md.
"""

from __future__ import annotations

from clac_jax.models.losses.cosface import CosFace
from clac_jax.models.losses.infonce import InfoNCE
from clac_jax.models.losses.jsd import JSD
from clac_jax.models.losses.settings import PairLoss
from clac_jax.models.losses.siglip import SigLIP

# `loss.name` of a config -> the kind of loss; the only place that lists them.
LOSSES: dict[str, type[PairLoss]] = {
    "infonce": InfoNCE,
    "cosface": CosFace,
    "siglip": SigLIP,
    "jsd": JSD,
}
