"""Config files: plain Python, one `get_config` each; a wheel has them as `clac_jax.configs`."""
