"""Sweeps: many runs under one roof, chosen by what earlier ones have shown.

A sweep file describes its space with these functions:

    space = {"learning_rate": log(1e-5, 1e-3), "batch_size": choice(16, 32)}
"""

from clac_jax.sweeps.space import choice, integer, log, uniform

__all__ = ["choice", "integer", "log", "uniform"]
