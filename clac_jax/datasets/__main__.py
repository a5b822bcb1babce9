"""Builds a data set: python -m clac_jax.datasets --name=NAME --data_dir=data."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from clac_jax.datasets.options import ON_BAD_ROW, ON_FORMULA_MISMATCH, SPLIT_BY, TableOptions
from clac_jax.datasets.prepare import NAMES, load, prepare
from clac_jax.datasets.split import SPLITS
from clac_jax.errors import EXIT_USER_ERROR, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(BaseException):
    """Stops the build after a signal; not an Exception, so that no library catches it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def main() -> None:
    """Runs the command line; exits with 2 after a user error, 128 + N after signal N."""
    parser = argparse.ArgumentParser(description="Builds a data set if it does not exist yet.")
    parser.add_argument("--name", default=NAMES[0], choices=NAMES)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--path", help="table or folder of CIF files")
    parser.add_argument("--on_bad_row", default="error", choices=ON_BAD_ROW)
    parser.add_argument(
        "--on_formula_mismatch", default=ON_FORMULA_MISMATCH[0], choices=ON_FORMULA_MISMATCH
    )
    parser.add_argument("--split_by", default="row", choices=SPLIT_BY)
    parser.add_argument("--label", default="", help="property to predict, for jarvis_dft_3d")
    flags = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for ASCII-only terminals
    try:
        with _stopped_by_signals():
            _run(flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except _Stopped as stop:
        name = signal.Signals(stop.number).name
        print(f"{name}: stopped; no partial files remain.", file=sys.stderr)
        sys.exit(128 + stop.number)


def _run(flags: argparse.Namespace) -> None:
    options = TableOptions(flags.on_bad_row, flags.split_by, flags.label, flags.on_formula_mismatch)
    try:
        folder, is_new = prepare(flags.name, flags.data_dir, flags.path, options)
        lines = [f"{flags.name}: {'built in' if is_new else 'already exists in'} {folder}"]
        for split in SPLITS:
            size = len(load(flags.name, flags.data_dir, split, flags.path, options))
            lines.append(f"  {split:<10} {size:>9,}")
        print("\n".join(lines), flush=True)
    except OSError as error:  # of the output: a full disk, or a closed pipe
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that the flush at exit cannot fail
        raise UserError(
            f"The output cannot be written: {error.strerror}. Check where it is redirected."
        ) from error


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raises `_Stopped` at the first signal; later signals are ignored during the clean-up."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
