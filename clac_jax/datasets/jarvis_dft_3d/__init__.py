"""The user's copy of JARVIS-DFT 3D, for learning one of its properties."""

from clac_jax.datasets.jarvis_dft_3d.builder import JarvisDft3d

__all__ = ["JarvisDft3d"]
