"""Crystal structures: reading, validation, graphs and augmentation."""

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import CrystalError

__all__ = ["Crystal", "CrystalError"]
