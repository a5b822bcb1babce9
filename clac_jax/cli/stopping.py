"""Stops a command at a signal, whatever it is doing, and lets it remove its partial files."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 0.1  # between attempts to stop


def run_until_stopped(command: Callable[[], None], outcome: str) -> int:
    """Runs a command to its end, or until a signal.

    Args:
        command: what to run, in the main thread.
        outcome: the state after a stop, for the line that is then printed.

    Returns:
        The exit code: 0, or 128 and the number of the signal.
    """
    try:
        with _stopped_by_signals():
            command()
    except _Stopped as stop:
        print(f"{signal.Signals(stop.number).name}: stopped; {outcome}.", file=sys.stderr)
        return 128 + stop.number
    return 0


class _Stopped(BaseException):
    """Stops a command after a signal; not an Exception, so that libraries do not catch it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raises `_Stopped` at the first signal; later signals are ignored during the clean-up.

    A signal may arrive where Python or a library discards exceptions: in a `__del__`, a callback
    of C code, a bare `except`. So the exception is raised again until it propagates.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        raise _Stopped(number)

    def stop_again(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not _is_being_handled():
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
