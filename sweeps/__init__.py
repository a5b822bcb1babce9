"""Sweep files for `clac-jax sweep start`; `clac_jax.sweep_files` in an installed wheel."""
