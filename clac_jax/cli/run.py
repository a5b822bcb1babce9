"""`clac-jax run`: trains unattended, starting again after crashes, hangs and pre-emption."""

from __future__ import annotations

import argparse
import math

from clac_jax.errors import UserError

USAGE = "clac-jax run [--max-restarts N] [--pause SECONDS] -- train --config=... --workdir=..."
ENDING = """\
The training is started again after exit code 75 (stopped on request, if only the training was), 76
(hung), 1 (an error) and crashes, once after 77 (the machine has computed a step wrongly), but not
after 0 and 2. After three tries in a row without a new
checkpoint it gives up. The last lines of each try are in WORKDIR/tries. The exit code is that of
the last try.
"""


def add(group: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group.usage, group.epilog = USAGE, ENDING
    group.add_argument(
        "--max-restarts",
        type=_count,
        metavar="N",
        help="restarts after which it gives up (default: no limit)",
    )
    group.add_argument(
        "--pause",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="time before a restart, doubled for each try in a row that made no progress "
        "(default: %(default)g)",
    )
    group.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- train ...", help="the training"
    )
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from clac_jax.supervision.child import program
    from clac_jax.supervision.progress import folder_of
    from clac_jax.supervision.supervisor import Restarts, supervise

    arguments = options.command[1:] if options.command[:1] == ["--"] else options.command
    if arguments[:1] != ["train"]:
        given = f"not {arguments[0]!r}" if arguments else "and none is given"
        raise UserError(f"`clac-jax run` runs a training only, {given}. Write: {USAGE}")
    restarts = Restarts(options.max_restarts, options.pause)
    return supervise([*program(), *arguments], folder_of(arguments[1:]), restarts)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of restarts, 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds, 0 or more")
    return seconds
