"""Population based training of the base run: it finds a schedule of the learning rate."""

from clac_jax.sweeps import log, uniform

config = "base"
space = {
    "learning_rate": log(3e-4, 6e-3),
    "weight_decay": log(1e-4, 1e-1),
    "structure_weight": uniform(0.3, 2.0),
}
overrides = {"schedule": "constant"}
monitor, mode = "text_to_crystal_top1", "max"
population = dict(
    members=6,
    generations=8,
    epochs=2,
    exploit=0.25,
    explore={"learning_rate": (0.7, 1.4), "weight_decay": (0.5, 2.0)},
)
seed = 0
