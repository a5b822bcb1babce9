"""Versions of the packages that affect a run's numbers."""

from __future__ import annotations

import importlib.metadata

import clac_jax

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def package_versions() -> dict[str, str]:
    """Package name -> version, for this package and all others that affect a run's numbers."""
    installed = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"clac-jax": clac_jax.__version__, **installed}
