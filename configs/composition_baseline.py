"""What only the elements and the cell can do: no structure, and a frozen text encoder."""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.graph_encoder.name = "composition"
    config.text_encoder.num_layers = None
    config.text_encoder.feature = "mean"
    config.frozen = ("text_encoder/.*",)
    config.optimizer.learning_rate_factors = ()
    return config
