"""Ends in minutes on a laptop: the smallest model on 16 crystals, used by the tests."""

from clac_jax.sweeps import choice, log

config = "smoke"
space = {
    "learning_rate": log(1e-4, 1e-2),
    "schedule": choice("constant", "cosine"),
}
overrides = {
    "max_epochs": 3,
    "dataset.max_examples": 16,
    "graph_encoder.name": "composition",
    "use_visual_intramodal_loss": False,
    "use_textual_intramodal_loss": False,
    "logging.tensorboard": False,
    "input.max_batch_shapes": 1,
}
monitor, mode = "val_loss", "min"
sampler = dict(name="tpe", startup_trials=4)
prune = dict(name="median", startup_trials=3)
budget = dict(trials=6)
parallel = 2
seed = 0
