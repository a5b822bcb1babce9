"""One property from only the crystal, starting from the graph encoder of the base run.

`--config=configs/finetune_property.py:NAME` selects a different property; "crystal system" is a
classification task. To train from scratch, add `--config.resume_from=`.
"""

import ml_collections

from clac_jax.config.shipped import shipped_config
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEM


def get_config(name: str = "band gap") -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.task = "property"
    config.property.name = name
    is_class = name == CRYSTAL_SYSTEM
    config.property.kind = "classification" if is_class else "regression"
    config.checkpoint.monitor = "val_accuracy" if is_class else "val_mae"
    config.checkpoint.mode = "max" if is_class else "min"
    config.max_epochs = 20
    config.batch_size = 64
    config.learning_rate = 1.5e-3
    config.warmup_steps = 100
    config.input.group_by = "none"
    # Only the graph encoder is restored: neither the text side nor the position in the data.
    config.resume_from = "outputs/base@best"
    config.restore.parts = ("params",)
    config.restore.rules = (("(text_encoder|(cross|visual|textual|structure)_head)/.*", None),)
    config.restore.strict = False  # the property head is a fresh one
    config.frozen = ()  # ("graph_encoder/.*",) would train only the head
    return config
