"""Ends in minutes on a laptop: three of the smallest models for three generations."""

from clac_jax.sweeps import log

config = "smoke"
space = {"learning_rate": log(1e-4, 1e-2)}
overrides = {
    "dataset.max_examples": 16,
    "graph_encoder.name": "composition",
    "use_visual_intramodal_loss": False,
    "use_textual_intramodal_loss": False,
    "logging.tensorboard": False,
    "input.max_batch_shapes": 1,
    "log_every_n_steps": 1,
}
monitor, mode = "val_loss", "min"
population = dict(members=3, generations=3, epochs=1, explore={"learning_rate": (0.7, 1.4)})
seed = 0
