"""For short queries in words: a longer base run that also trains its text layer."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.max_epochs = 12
    config.learning_rate = 1.5e-3
    # A full text also states its composition and space group, so the model hardly needs words such
    # as "sulfide" and "spinel"; a query may contain nothing else.
    config.augment.hide_composition_prob = 0.3
    config.augment.short_text_prob = 0.25
    config.augment.statement_prob = 0.1
    config.frozen = (
        r"text_encoder/(word|position|type)_embedding/.*",
        r"text_encoder/embedding_norm/.*",
    )
    return config
