"""Stage 2: two more epochs starting from `outputs/base`, with smaller batches, fewer formulas."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.resume_from = "outputs/base"  # or outputs/base@best, @epoch=1, or a checkpoint folder
    config.max_epochs += 2  # the epochs of stage 1 count
    config.batch_size = 32
    config.learning_rate = 2e-4
    config.replace_formula_prob = 0.9
    config.replace_formula_start_epoch = 0  # from the start
    return config
