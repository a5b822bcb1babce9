"""JARVIS-DFT 3D, read from a file of the user, for property prediction."""

from clac_jax.datasets.jarvis_dft_3d.builder import JarvisDft3d

__all__ = ["JarvisDft3d"]
