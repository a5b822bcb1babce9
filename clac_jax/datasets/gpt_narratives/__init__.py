"""A user's own table: the public GPT-Narratives parquet, or any file with its columns."""

from clac_jax.datasets.gpt_narratives.builder import GptNarratives

__all__ = ["GptNarratives"]
