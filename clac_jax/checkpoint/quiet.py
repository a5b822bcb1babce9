"""Suppresses what threads of Orbax and TensorStore print about an error that is raised anyway.

A save or a restore that fails raises its first error, which is reported in one line. The threads
that handle the other arrays then fail as well, some of them much later: Orbax logs each with its
traceback, asyncio reports every error that is no longer awaited, and TensorStore finds its event
loop closed. A full disk thus prints hundreds of lines around the one that matters.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_hook_before: Callable[[Any], Any] = sys.__unraisablehook__


def quiet_threads() -> None:
    """Drops these three kinds of messages, and no others, from now on; may be called repeatedly."""
    global _hook_before
    with _lock:
        for name, is_news in (("absl", _is_news), ("asyncio", _is_awaited)):  # Orbax logs to absl
            logger = logging.getLogger(name)
            if is_news not in logger.filters:
                logger.addFilter(is_news)
        if sys.unraisablehook is not _unraisable:
            _hook_before, sys.unraisablehook = sys.unraisablehook, _unraisable


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is new information, not a traceback of Orbax's threads."""
    parts = record.pathname.replace("\\", "/").split("/")
    return not ("orbax" in parts and parts[-1] == "future.py" and record.exc_info)


def _is_awaited(record: logging.LogRecord) -> bool:
    """Whether a log record is not about an error that follows the reported one."""
    return "exception was never retrieved" not in record.getMessage()


def _unraisable(error: Any) -> None:
    closed = error.object is None and isinstance(error.exc_value, RuntimeError)
    if not (closed and str(error.exc_value) == "Event loop is closed"):
        _hook_before(error)
