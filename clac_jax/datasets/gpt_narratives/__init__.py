"""The public GPT-Narratives table, or any table of the user with the same columns."""

from clac_jax.datasets.gpt_narratives.builder import GptNarratives

__all__ = ["GptNarratives"]
