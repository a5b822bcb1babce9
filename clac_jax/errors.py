"""Errors and warnings that a user, not a developer, has to act on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user gave (config, file, data, disk) cannot be used.

    The message says in one sentence what is wrong with which file, row or key, and in one more what
    to do. `main.py` prints it without a traceback and exits with its `exit_code`.
    """

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A config key is unknown or its value cannot be used."""


class WorkdirError(UserError):
    """The workdir cannot be used or written to."""

    # Rows may be missing from metrics.jsonl: a checkpoint of this moment would not match them.
    spoils_state = True


class LostWorkdirError(WorkdirError):
    """The workdir is no longer the folder that the run began in.

    Attributes:
        moved_to: where that folder is now, if that can be found; the run can still be saved there.
    """

    def __init__(self, message: str, moved_to: Path | None):
        super().__init__(message)
        self.moved_to = moved_to
        self.spoils_state = moved_to is None


class MovedMetricsError(WorkdirError):
    """`metrics.jsonl` was taken away during the run; its rows are safe, and so is the state."""

    spoils_state = False


EXIT_USER_ERROR = UserError.exit_code


def warn(message: str) -> None:
    """Prints one line to the standard error: what is wrong and what becomes of it."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def in_words(error: Exception) -> str:
    """What an error says, on one line: without the number and file that the system's own have."""
    return getattr(error, "strerror", None) or one_line(error) or type(error).__name__


def one_line(value: Any, limit: int = 200) -> str:
    """What a file says, short enough for a message: one line, its middle left out where long.

    Args:
        value: an error, or a value out of a file; its text is taken as it is.
        limit: characters.
    """
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very large {type(value).__name__}"
    text = " ".join(text[: 10 * limit].split()) + ("..." if len(text) > 10 * limit else "")
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
