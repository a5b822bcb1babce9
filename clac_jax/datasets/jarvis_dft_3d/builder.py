"""TFDS builder for JARVIS-DFT 3D; the path of its file is given by the user."""

from __future__ import annotations

from clac_jax.datasets.table import TableBuilder


class JarvisDft3d(TableBuilder):
    """JARVIS-DFT 3D (Choudhary et al., 2020): crystals with properties but no texts."""

    needs_text = False
