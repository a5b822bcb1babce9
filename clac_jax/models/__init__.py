"""Flax modules: graph encoders, text encoders, projection blocks, and the two-tower model."""

from clac_jax.models.build import abstract_variables, build_model, init_variables
from clac_jax.models.clac import CLaC, ClacOutput
from clac_jax.models.settings import ModelError

__all__ = [
    "CLaC",
    "ClacOutput",
    "ModelError",
    "abstract_variables",
    "build_model",
    "init_variables",
]
