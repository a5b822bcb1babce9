"""Errors of loading a trained model and of its inputs."""

from __future__ import annotations

from clac_jax.errors import UserError


class LoadError(UserError):
    """A model cannot be loaded, or is not of the kind that an operation needs."""


class InputError(UserError, ValueError):
    """Crystals, texts or labels that a model cannot process."""


class PublishedError(UserError):
    """A published model cannot be written, or its files are not what was published."""
