"""For searching by short queries in words: a longer run, whose text encoder learns words itself."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.max_epochs = 12
    config.learning_rate = 1.5e-3
    # Compositions are read from formulas and names of elements, so the words "sulfide" and
    # "spinel" of a full text add little to them; in a query they may be all there is.
    config.augment.hide_composition_prob = 0.3
    config.augment.short_text_prob = 0.25
    config.augment.statement_prob = 0.1
    config.frozen = (
        r"text_encoder/(word|position|type)_embedding/.*",
        r"text_encoder/embedding_norm/.*",
    )
    return config
