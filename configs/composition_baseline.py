"""Baseline from only elements and cell: the base run's text encoder, but no atomic structure."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.graph_encoder.name = "composition"
    config.graph_encoder.add_composition = False
    config.graph_encoder.add_descriptors = False
    config.structure_weight = 0.0
    config.augment.hide_elements_prob = 0.0
    config.augment.statement_prob = 0.0
    return config
