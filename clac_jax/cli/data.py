"""`clac-jax data`: prepares the data sets for training."""

from __future__ import annotations

import argparse

from clac_jax.cli.command import commands
from clac_jax.cli.stopping import run_until_stopped
from clac_jax.datasets.options import ON_BAD_ROW, ON_FORMULA_MISMATCH, SPLIT_BY, TableOptions
from clac_jax.datasets.prepare import NAMES, load, prepare
from clac_jax.datasets.split import SPLITS


def add(group: argparse.ArgumentParser) -> None:
    """Adds the `data` commands."""
    command = commands(group)
    prepare_ = command("prepare", _prepare, "build a data set if it does not exist yet")
    prepare_.add_argument(
        "--name", default=NAMES[0], choices=NAMES, help="the data set (default: %(default)s)"
    )
    prepare_.add_argument(
        "--data_dir", default="data", help="the folder to build it in (default: %(default)s)"
    )
    prepare_.add_argument("--path", help="a table or a folder of CIF files")
    prepare_.add_argument(
        "--on_bad_row",
        default="error",
        choices=ON_BAD_ROW,
        help="refuse a table with bad rows, or skip them and list them (default: %(default)s)",
    )
    prepare_.add_argument(
        "--on_formula_mismatch",
        default=ON_FORMULA_MISMATCH[0],
        choices=ON_FORMULA_MISMATCH,
        help="refuse CIFs whose sites are not the atoms of their formula sum, or take them as they "
        "are (default: %(default)s)",
    )
    prepare_.add_argument(
        "--split_by",
        default="row",
        choices=SPLIT_BY,
        help="split a table by row, or with each formula in one split only (default: %(default)s)",
    )
    prepare_.add_argument(
        "--label",
        default="",
        help="the property to predict: rows without it are left out (default: none is needed)",
    )


def _prepare(options: argparse.Namespace) -> int:
    return run_until_stopped(lambda: _build(options), "no partial files remain")


def _build(options: argparse.Namespace) -> None:
    table = TableOptions(
        options.on_bad_row, options.split_by, options.label, options.on_formula_mismatch
    )
    folder, is_new = prepare(options.name, options.data_dir, options.path, table)
    lines = [f"{options.name}: {'built in' if is_new else 'already exists in'} {folder}"]
    for split in SPLITS:
        size = len(load(options.name, options.data_dir, split, options.path, table))
        lines.append(f"  {split:<10} {size:>9,}")
    print("\n".join(lines), flush=True)
