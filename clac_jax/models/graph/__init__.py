"""Graph encoders: a batch of crystals to one feature vector per crystal.

To add one, write a file in this folder and a line in `GRAPH_ENCODERS`: docs/add-an-encoder.md.
"""

from __future__ import annotations

from clac_jax.models.graph.cgcnn import CGCNNSettings
from clac_jax.models.graph.composition import CompositionSettings
from clac_jax.models.graph.orb import OrbSettings
from clac_jax.models.graph.painn import PaiNNSettings
from clac_jax.models.graph.settings import GraphEncoderSettings

# `graph_encoder.name` of a config -> the kind of encoder; the only place that lists them.
GRAPH_ENCODERS: dict[str, type[GraphEncoderSettings]] = {
    "painn": PaiNNSettings,
    "cgcnn": CGCNNSettings,
    "orb": OrbSettings,
    "composition": CompositionSettings,
}
