"""The bundled data set: 6,317 Materials Project crystals with narratives."""

from clac_jax.datasets.materials_project_mini.builder import MaterialsProjectMini

__all__ = ["MaterialsProjectMini"]
