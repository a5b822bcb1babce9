"""Prepares a data set: python -m clac_jax.datasets --name=NAME --data_dir=data."""

from __future__ import annotations

import argparse
import sys

from clac_jax.datasets.prepare import NAMES, ON_BAD_ROW, SPLIT_BY, load, prepare
from clac_jax.datasets.split import SPLITS
from clac_jax.errors import EXIT_USER_ERROR, UserError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds a data set unless it is there already.")
    parser.add_argument("--name", default=NAMES[0], choices=NAMES)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--path", help="the user's table or folder of CIF files")
    parser.add_argument("--on_bad_row", default="error", choices=ON_BAD_ROW)
    parser.add_argument("--split_by", default="row", choices=SPLIT_BY)
    parser.add_argument("--label", default="", help="the property to learn, for jarvis_dft_3d")
    options = parser.parse_args()
    rest = options.path, options.on_bad_row, options.split_by, options.label
    try:
        folder, is_new = prepare(options.name, options.data_dir, *rest)
        sizes = {split: len(load(options.name, options.data_dir, split, *rest)) for split in SPLITS}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"{options.name}: {'built in' if is_new else 'is there already,'} {folder}")
    for split, size in sizes.items():
        print(f"  {split:<10} {size:>9,}")


if __name__ == "__main__":
    main()
