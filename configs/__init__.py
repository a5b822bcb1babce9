"""Config files in plain Python, one `get_config` each; `clac_jax.configs` in an installed wheel."""
