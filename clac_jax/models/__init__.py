"""Flax modules: graph encoders, text encoder, projection blocks and the two towers together."""

from clac_jax.models.clac import (
    CLaC,
    ClacOutput,
    ModelError,
    abstract_variables,
    build_model,
    init_variables,
)

__all__ = [
    "CLaC",
    "ClacOutput",
    "ModelError",
    "abstract_variables",
    "build_model",
    "init_variables",
]
