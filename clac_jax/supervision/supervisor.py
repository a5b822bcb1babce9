"""Starts a training again until it is complete, must be corrected, or makes no progress."""

from __future__ import annotations

import math
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clac_jax.distributed.preemption import EXIT_HUNG, EXIT_PREEMPTED
from clac_jax.errors import EXIT_FAULTY, EXIT_USER_ERROR
from clac_jax.supervision.child import Ended, Signals, run_child
from clac_jax.supervision.progress import newest_step
from clac_jax.supervision.tries import keep_last_lines

TRIES_WITHOUT_PROGRESS = 3
FAULTS = 2  # tries that found the machine faulty
SILENT = "killed: it was stopped, or gave no sign of life"
FINAL = (0, EXIT_USER_ERROR)
MEANINGS = {
    0: "complete",
    1: "an error, or another process was lost",
    EXIT_USER_ERROR: "something must be corrected",
    EXIT_PREEMPTED: "stopped on request",
    EXIT_HUNG: "hung",
    EXIT_FAULTY: "the machine has computed a step wrongly",
}


@dataclass(frozen=True)
class Restarts:
    """When a training is started again.

    Attributes:
        most: largest number of restarts; None: no limit.
        pause: time before a restart, seconds; doubled for each try in a row without progress.
    """

    most: int | None = None
    pause: float = 10.0


def supervise(command: Sequence[str], folder: Path | None, restarts: Restarts) -> int:
    """Runs a training, again and again if need be; prints one line for each try.

    It is started again after exit code 75 (unless this program was asked to stop as well), 76 and
    any other failure, except 2, which the user must correct. Three tries in a row without a newer
    checkpoint are the last, and so is the second one after which this machine is found faulty (77):
    a cosmic ray does not strike twice, broken memory does.

    Args:
        command: the program and its arguments.
        folder: the run's workdir, in which progress is seen and the last lines of each try are
            kept; None if unknown.
        restarts: when it is started again.

    Returns:
        The exit code of the last try; 75 if a signal arrives between two of them.
    """
    with Signals() as signals:
        farthest = newest_step(folder)
        number = idle = faults = 0
        while True:
            number += 1
            ended = run_child(command, signals)
            signals.read()  # one that arrived together with the end
            reached = _reached(folder, ended)
            is_farther = reached > (-1 if farthest is None else farthest)
            farthest = max(reached, -1 if farthest is None else farthest)
            idle = 0 if is_farther else idle + 1
            faults += ended.code == EXIT_FAULTY
            kept = keep_last_lines(folder, number, ended)
            stops = _why_stop(ended.code, number, idle, restarts, signals)
            if faults == FAULTS and not stops:
                stops = "the second time: have this machine tested, and run on a different one"
            pause = restarts.pause * 2**idle
            where = (
                f" (last lines: {kept})" if kept and ended.code not in (0, EXIT_PREEMPTED) else ""
            )
            then = stops or f"the next one starts in {pause:g} s"
            step = f" at step {reached}" if reached >= 0 else ""
            why = SILENT if ended.was_silent else meaning(ended.code)
            _say(
                f"try {number} ended with exit code {ended.code} ({why}) after "
                f"{_duration(ended.seconds)}{step}{where}; {then}."
            )
            if stops:
                return ended.code
            if _is_asked_to_stop(pause, signals):
                _say(f"{signals.first}: no further try.")
                return EXIT_PREEMPTED


def meaning(code: int) -> str:
    """The meaning of a training's exit code, in a few words."""
    if code > 128:
        try:
            return f"ended by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return MEANINGS.get(code, "a crash")


def _reached(folder: Path | None, ended: Ended) -> int:
    """The step of the newest checkpoint; the last printed step where checkpoints are not seen.

    A process that does not write them prints no steps, and reports each save to its supervisor.
    """
    newest = newest_step(folder)
    return max(ended.saved, ended.step if newest is None else newest)


def _why_stop(code: int, number: int, idle: int, restarts: Restarts, signals: Signals) -> str:
    """Why there is no further try, as a clause; "" if there is one."""
    if code in FINAL:
        return "no further try is needed" if code == 0 else "no further try would help"
    if signals.first:
        return f"{signals.first} was passed on to it, so there is no further try"
    if idle >= TRIES_WITHOUT_PROGRESS:
        return f"{idle} tries in a row made no progress, so there is no further try"
    if restarts.most is not None and number > restarts.most:
        return f"--max-restarts={restarts.most} is reached"
    return ""


def _is_asked_to_stop(seconds: float, signals: Signals) -> bool:
    """Waits, and returns whether a signal arrived."""
    end = time.monotonic() + seconds
    while not signals.first and (left := end - time.monotonic()) > 0:
        select.select([signals.reader], [], [], left)
        signals.read()
    return bool(signals.first)


def _duration(seconds: float) -> str:
    hours, rest = divmod(math.floor(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _say(text: str) -> None:
    print(f"run       {text}", file=sys.stderr, flush=True)
