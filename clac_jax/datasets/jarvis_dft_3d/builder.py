"""TFDS builder for the JARVIS-DFT 3D data set, whose file the user gives by path."""

from __future__ import annotations

from clac_jax.datasets.table import TableBuilder


class JarvisDft3d(TableBuilder):
    """Crystals with properties and without texts: JARVIS-DFT 3D (Choudhary et al., 2020)."""

    needs_text = False
