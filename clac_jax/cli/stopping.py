"""Stops a command at a signal, whatever it is doing, and lets it remove its partial files."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = tuple(128 + number for number in SIGNALS)  # exit codes
AGAIN_SECONDS = 0.1  # between attempts to stop
_IMPORTS = "<frozen importlib._bootstrap>"


def run_until_stopped(command: Callable[[], int | None], outcome: str = "") -> int:
    """Runs a command to its end, or until a signal.

    Args:
        command: what to run, in the main thread; it returns its exit code, or None for 0.
        outcome: the state after a stop, for the line that is then printed.

    Returns:
        The exit code: that of the command, or 128 and the number of the signal.
    """
    try:
        with _stopped_by_signals():
            return command() or 0
    except _Stopped as stop:
        state = f"; {outcome}" if outcome else ""
        print(f"{signal.Signals(stop.number).name}: stopped{state}.", file=sys.stderr)
        return 128 + stop.number


def leave_now(code: int) -> NoReturn:
    """Exits without destroying what a computation that is still running uses: XLA would crash."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    atexit._run_exitfuncs()  # removes temporary folders
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _Stopped(BaseException):
    """Stops a command after a signal; not an Exception, so that libraries do not catch it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raises `_Stopped` at the first signal; later signals are ignored during the clean-up.

    A signal may arrive where Python or a library discards exceptions: in a `__del__`, a callback
    of C code, a bare `except`. So the exception is raised again until it propagates. In an import
    it waits for the end of that, since many extension modules crash if their own is interrupted.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        stop_again(number, frame)

    def stop_again(number: int, frame: FrameType | None) -> None:
        del number
        if not _is_being_handled() and not _is_importing(frame):
            raise _Stopped(received[0])

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, _Stopped):
            report_before(unraisable)

    report_before, sys.unraisablehook = sys.unraisablehook, report
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, stop_again)
    try:
        yield
        if received:
            raise _Stopped(received[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = report_before
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_being_handled() -> bool:
    """Whether `_Stopped` is passing through a `finally`, an `except` or an `__exit__`."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, _Stopped):
        error = error.__context__
    return error is not None


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a frame runs in an import."""
    while frame is not None and frame.f_code.co_filename != _IMPORTS:
        frame = frame.f_back
    return frame is not None
