"""clac_jax: contrastive language-crystal pretraining in JAX, with checkpoints that can be trusted."""

__version__ = "0.1.0"
