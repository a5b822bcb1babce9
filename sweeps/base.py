"""Four epochs of the base run: how fast, how much structure, how much of each text."""

from clac_jax.sweeps import log, uniform

config = "base"
space = {
    "learning_rate": log(7e-4, 3e-3),
    "structure_weight": log(0.3, 3.0),
    "augment.hide_elements_prob": uniform(0.0, 0.3),
    "augment.sentence_keep_prob": uniform(0.4, 0.9),
}
overrides = {"max_epochs": 4}
monitor, mode = "text_to_crystal_top1", "max"
sampler = dict(name="tpe", startup_trials=4)
prune = dict(name="median", startup_trials=2, warmup_epochs=1)
budget = dict(trials=16, hours=1.0)
parallel = 1
seed = 0
