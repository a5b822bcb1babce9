"""The versions of this package and of those that shape a run's numbers."""

from __future__ import annotations

import importlib.metadata

import clac_jax

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def package_versions() -> dict[str, str]:
    """Package name -> version of everything that shapes a run's numbers."""
    installed = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"clac-jax": clac_jax.__version__, **installed}
