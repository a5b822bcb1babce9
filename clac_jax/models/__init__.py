"""Flax modules: graph encoders, text encoders, projection blocks and the two towers together."""

from clac_jax.models.build import ModelError, abstract_variables, build_model, init_variables
from clac_jax.models.clac import CLaC, ClacOutput

__all__ = [
    "CLaC",
    "ClacOutput",
    "ModelError",
    "abstract_variables",
    "build_model",
    "init_variables",
]
