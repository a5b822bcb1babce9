"""Trains a model: python main.py --config=configs/base.py --workdir=outputs/exp."""

import sys

from clac_jax.cli.main import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])  # `clac-jax train`
