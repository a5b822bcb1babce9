"""clac_jax: contrastive language-crystal pretraining in JAX, built around Orbax checkpoints."""

__version__ = "0.1.0"
