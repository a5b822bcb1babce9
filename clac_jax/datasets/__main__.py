"""Prepares a data set: python -m clac_jax.datasets --name=materials_project_mini --data_dir=data."""

from __future__ import annotations

import argparse
import sys

from clac_jax.datasets.prepare import NAMES, load, prepare
from clac_jax.datasets.split import SPLITS
from clac_jax.errors import EXIT_USER_ERROR, UserError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds a data set unless it is there already.")
    parser.add_argument("--name", default=NAMES[0], choices=NAMES)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--path", help="the user's table, for gpt_narratives")
    parser.add_argument("--on_bad_row", default="error", choices=("error", "skip"))
    options = parser.parse_args()
    rest = options.path, options.on_bad_row
    try:
        folder = prepare(options.name, options.data_dir, *rest)
        sizes = [
            f"{len(load(options.name, options.data_dir, split, *rest)):,} {split}"
            for split in SPLITS
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"{options.name}: {', '.join(sizes)} in {folder}")


if __name__ == "__main__":
    main()
