"""Stage 2: two more epochs on top of `outputs/base`, with smaller batches and fewer formulas."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.resume_from = "outputs/base"  # or outputs/base@best, @epoch=1, a checkpoint's folder
    config.max_epochs += 2  # the epochs of stage 1 count
    config.batch_size = 32
    config.learning_rate = 2e-4
    config.replace_formula_prob = 0.9
    config.replace_formula_start_epoch = 0  # at once
    return config
