"""The paper's run at full size: PaiNN 512 x 5 on the GPT-Narratives parquet."""

import ml_collections

from clac_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset.name = "gpt_narratives"
    # Give the parquet file as --config.dataset.path=mp_3d_2020_gpt_narratives.parquet
    config.max_epochs = 5
    config.batch_size = 32
    config.accumulate_steps = 16
    config.learning_rate = 2e-5
    config.gradient_clip = 0.05
    config.text_encoder.pretrained = "minilm"
    # The release loads its text tower with `from_pretrained`, which leaves it in eval mode, and
    # Lightning since 2.2 keeps that: in effect, its text tower trains without dropout.
    config.text_encoder.dropout = 0.0
    config.checkpoint.save_top_k = 3
    return config
