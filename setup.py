"""The packages of a wheel; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["clac_jax*"]),
        "clac_jax.configs",
        "clac_jax.sweep_files",
        # Folders of data: setuptools warns of those that are not named.
        "clac_jax.map.assets",
        "clac_jax.map.assets.js",
        "clac_jax.sweeps.assets",
    ],
    package_dir={"clac_jax.configs": "configs", "clac_jax.sweep_files": "sweeps"},
)
