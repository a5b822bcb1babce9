"""Makes `python -m clac_jax` equivalent to `clac-jax`."""

from clac_jax.cli.main import run

if __name__ == "__main__":
    run()
