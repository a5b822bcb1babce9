"""Errors and warnings that a user can act on: the base class, and the errors of the workdir."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A problem with something the user provided: config, file, data or disk.

    The message has two parts: what is wrong with which file, row or key, and what to do about it.
    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2
    prevents_saving = False
    """Whether a checkpoint of the state at the time of the error would be wrong."""


class ConfigError(UserError, ValueError):
    """A config key is unknown or its value cannot be used."""


class WorkdirError(UserError):
    """The workdir cannot be read or written."""

    # metrics.jsonl may lack rows, so a checkpoint saved now would disagree with it.
    prevents_saving = True


class LostWorkdirError(WorkdirError):
    """The workdir path no longer leads to the folder the run started in.

    Attributes:
        moved_to: new path of that folder, where the run can still be saved; None if unknown.
    """

    def __init__(self, message: str, moved_to: Path | None):
        super().__init__(message)
        self.moved_to = moved_to
        self.prevents_saving = moved_to is None


class MovedMetricsError(WorkdirError):
    """`metrics.jsonl` was moved or deleted during the run; its rows and the state are intact."""

    prevents_saving = False


EXIT_USER_ERROR = UserError.exit_code


def warn(message: str) -> None:
    """Prints a warning to the standard error: what is wrong and what happens next."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def error_reason(error: Exception) -> str:
    """The message of an error on one line, without the errno and path of an `OSError`."""
    return getattr(error, "strerror", None) or one_line(error) or type(error).__name__


def one_line(value: Any, limit: int = 200) -> str:
    """A value as one line of text, shortened in the middle, for use in a message.

    Args:
        value: an error, or any value read from a file; `str` is applied to it.
        limit: largest number of characters.
    """
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very large {type(value).__name__}"
    text = " ".join(text[: 10 * limit].split()) + ("..." if len(text) > 10 * limit else "")
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
