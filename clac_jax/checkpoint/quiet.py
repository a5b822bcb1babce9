"""Silence for what the threads of Orbax and TensorStore print about an error that is raised anyway.

A save or a restore that fails raises its first error, which is reported in one line. The threads
that were at work on the other arrays then fail, too: Orbax logs each with a traceback, and
TensorStore's find the event loop closed that they report to. A full disk so prints hundreds of
lines around the one that matters.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_lock = threading.Lock()
_active = 0
_hook_before: Callable[[Any], Any] = sys.__unraisablehook__


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """While the body runs, what Orbax's threads log as an error with its traceback is not printed.

    What TensorStore's threads find closed is not printed from now on: they may end much later.
    """
    global _active
    _listen()
    with _lock:
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1


def _listen() -> None:
    """Puts filters before the log of absl, which Orbax uses, and before Python's own hook."""
    global _hook_before
    with _lock:
        logger = logging.getLogger("absl")
        if _no_repetition not in logger.filters:
            logger.addFilter(_no_repetition)
        if sys.unraisablehook is not _unraisable:
            _hook_before, sys.unraisablehook = sys.unraisablehook, _unraisable


def _no_repetition(record: logging.LogRecord) -> bool:
    """Whether a record is to be logged: not the tracebacks of Orbax's threads."""
    of_orbax = "orbax" in record.pathname.replace("\\", "/").split("/")
    return not (_active and of_orbax and record.exc_info)


def _unraisable(error: Any) -> None:
    closed = error.object is None and isinstance(error.exc_value, RuntimeError)
    if not (closed and str(error.exc_value) == "Event loop is closed"):
        _hook_before(error)
