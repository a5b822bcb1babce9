"""One property from only the crystal, starting from the graph encoder of the base run.

`--config=configs/finetune_property.py:NAME` takes another property; "crystal system" is
classified. From scratch: add `--config.resume_from=`.
"""

import ml_collections

from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEM
from configs import base


def get_config(name: str = "band gap") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.task = "property"
    config.property.name = name
    is_class = name == CRYSTAL_SYSTEM
    config.property.kind = "classification" if is_class else "regression"
    config.checkpoint.monitor = "val_accuracy" if is_class else "val_mae"
    config.checkpoint.mode = "max" if is_class else "min"
    config.max_epochs = 20
    config.batch_size = 64
    config.learning_rate = 5e-4
    config.warmup_steps = 100
    config.input.group_by = "none"
    # Of the other run: its graph encoder. Neither its text side nor its place in the data.
    config.resume_from = "outputs/base@best"
    config.restore.parts = ("params",)
    config.restore.rules = (("(text_encoder|(cross|visual|textual)_head)/.*", None),)
    config.restore.strict = False  # the head of the property starts at random
    config.frozen = ()  # ("graph_encoder/.*",) trains only the head
    config.optimizer.learning_rate_factors = ()
    return config
