"""Prepares a data set: python -m clac_jax.datasets --name=NAME --data_dir=data."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from clac_jax.datasets.options import ON_BAD_ROW, ON_FORMULA_MISMATCH, SPLIT_BY, TableOptions
from clac_jax.datasets.prepare import NAMES, load, prepare
from clac_jax.datasets.split import SPLITS
from clac_jax.errors import EXIT_USER_ERROR, UserError


class _Stopped(BaseException):
    """A signal asked the build to stop; not an Exception, so that no library handles it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds a data set unless it is there already.")
    parser.add_argument("--name", default=NAMES[0], choices=NAMES)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--path", help="the user's table or folder of CIF files")
    parser.add_argument("--on_bad_row", default="error", choices=ON_BAD_ROW)
    parser.add_argument(
        "--on_formula_mismatch", default=ON_FORMULA_MISMATCH[0], choices=ON_FORMULA_MISMATCH
    )
    parser.add_argument("--split_by", default="row", choices=SPLIT_BY)
    parser.add_argument("--label", default="", help="the property to learn, for jarvis_dft_3d")
    flags = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        options = TableOptions(
            flags.on_bad_row, flags.split_by, flags.label, flags.on_formula_mismatch
        )
        folder, is_new = prepare(flags.name, flags.data_dir, flags.path, options)
        sizes = {
            split: len(load(flags.name, flags.data_dir, split, flags.path, options))
            for split in SPLITS
        }
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except _Stopped as stop:
        name = signal.Signals(stop.number).name
        print(f"{name}: stopped, and nothing was left behind.", file=sys.stderr)
        sys.exit(128 + stop.number)
    print(f"{flags.name}: {'built in' if is_new else 'is there already,'} {folder}")
    for split, size in sizes.items():
        print(f"  {split:<10} {size:>9,}")


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # while the unfinished files are removed
    raise _Stopped(number)


if __name__ == "__main__":
    main()
