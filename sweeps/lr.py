"""The learning rate of the base run, and what goes with it: 16 trials, bad ones ended early."""

from clac_jax.sweeps import choice, log, uniform

config = "base"
space = {
    "learning_rate": log(3e-4, 6e-3),
    "weight_decay": log(1e-4, 1e-1),
    "gradient_clip": choice(0.3, 1.0, 3.0),
    "structure_weight": uniform(0.3, 2.0),
}
monitor, mode = "text_to_crystal_top1", "max"
sampler = dict(name="tpe", startup_trials=6)
prune = dict(name="median", startup_trials=3, warmup_epochs=1)
budget = dict(trials=16)
parallel = 2
seed = 0
