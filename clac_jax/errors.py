"""Errors and warnings that a user can act on: the base class, and the errors of the workdir."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_COPIES: dict[str, str] = {}  # path of a local copy -> URL of what it is a copy of


class UserError(Exception):
    """A problem with something the user provided: config, file, data or disk.

    The message has two parts: what is wrong with which file, row or key, and what to do about it.
    Local copies of what is in an object store appear in it under their URLs. The command line
    prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2
    prevents_saving = False
    """Whether a checkpoint of the state at the time of the error would be wrong."""

    def __str__(self) -> str:
        return shown(super().__str__())


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

EXIT_FAULTY = 77
"""Exit code of a run whose machine has computed the same step with different results."""


def warn(message: str) -> None:
    """Prints a warning to the standard error: what is wrong and what happens next."""
    print(f"warning: {shown(message)}", file=sys.stderr, flush=True)


def set_origin(copy: Path, url: str) -> None:
    """Makes messages name the URL of what was copied to a local file or folder.

    Args:
        copy: absolute path of the copy.
        url: what it is a copy of.
    """
    for path in (copy, copy.resolve()):
        _COPIES[str(path)] = url.rstrip("/")


def forget_origin(copy: Path) -> None:
    """Makes messages name a local file or folder by its path again."""
    for path in (copy, copy.resolve()):
        _COPIES.pop(str(path), None)


def origin_of(path: Any) -> str | None:
    """URL of which a path is a copy, or is in a copy; None for other paths."""
    text = str(path)
    for copy in sorted(_COPIES, key=len, reverse=True):
        if text == copy or text.startswith(f"{copy}/"):
            return _COPIES[copy] + text[len(copy) :]
    return None


def shown(text: Any) -> str:
    """A text or path for the user: local copies under the URLs of what they are copies of."""
    result = str(text)
    for copy in sorted(_COPIES, key=len, reverse=True):
        result = result.replace(copy, _COPIES[copy])
    return result


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


def noun_for(number: int, singular: str, plural: str = "") -> str:
    """The singular for 1, the plural (by default with an "s") for any other number."""
    return singular if number == 1 else plural or f"{singular}s"


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number of things: "1 array", "1,404 arrays"; see `noun_for`."""
    return f"{number:,} {noun_for(number, singular, plural)}"
