"""TFDS builder for a table of crystals and texts that the user gives by path."""

from __future__ import annotations

from clac_jax.datasets.table import TableBuilder


class GptNarratives(TableBuilder):
    """Crystals with texts from a table that the user gives (columns of GPT-Narratives)."""
