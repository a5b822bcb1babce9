"""TFDS builder for a table of crystals and texts; its path is given by the user."""

from __future__ import annotations

from clac_jax.datasets.table import TableBuilder


class GptNarratives(TableBuilder):
    """Crystals with texts from a table with the columns of GPT-Narratives."""
