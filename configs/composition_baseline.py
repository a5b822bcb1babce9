"""Baseline from only elements and cell: no atomic structure, and a frozen text encoder."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    # The values with which the row in README.md was measured.
    config.max_epochs = 6
    config.learning_rate = 1.4e-3
    config.replace_formula_prob = 0.15
    config.graph_encoder.name = "composition"
    config.graph_encoder.add_descriptors = False
    config.structure_weight = 0.0
    config.augment.hide_elements_prob = 0.0
    config.augment.statement_prob = 0.0
    config.text_encoder.num_layers = None
    config.text_encoder.feed_forward_units = None
    config.text_encoder.numbers_at = ()
    config.text_encoder.add_compositions = False
    config.text_encoder.feature = "mean"
    config.frozen = ("text_encoder/.*",)
    return config
