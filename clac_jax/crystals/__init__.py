"""Crystals: read from files and tables, checked, made into graphs, and displaced for views."""

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import CrystalError

__all__ = ["Crystal", "CrystalError"]
