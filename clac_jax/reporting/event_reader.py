"""Reads `events.jsonl`, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, WorkdirError
from clac_jax.files.paths import explain


def read_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads the events of a file, oldest first, and the number of lines that are none.

    A kill can cut off a line, and a copy of the file can lack its end.

    Raises:
        NoEventsError: there is no such file.
        WorkdirError: it cannot be read.
    """
    events, unread = [], 0
    try:
        with open(path, "rb") as file:
            for line in file:
                event = _event(line)
                if event is None:
                    unread += 1
                else:
                    events.append(event)
    except FileNotFoundError as error:
        raise NoEventsError(str(path)) from error
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    return events, unread


class NoEventsError(UserError):
    """A workdir has no `events.jsonl`."""

    def __init__(self, name: str):
        """Makes the message, from the path or URL of the missing file."""
        super().__init__(
            f"{name} does not exist. Name the workdir of a run; runs record events since "
            "clac_jax 0.2."
        )


def _event(line: bytes) -> dict[str, Any] | None:
    """An event with its fields as promised, or None."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    seconds = event.get("seconds", {})
    numbers = [event.get("at"), event.get("began", 0), event.get("step", 0), event.get("epoch", 0)]
    numbers.append(event.get("reached", 0))
    numbers += map(_size, seconds.values()) if isinstance(seconds, dict) else [None]
    texts = [event.get("kind"), event.get("start")]
    if not all(isinstance(text, str) for text in texts):
        return None
    if not all(type(number) in (int, float) and 0 <= number < 1e15 for number in numbers):
        return None
    return event


def _size(seconds: Any) -> Any:
    """The absolute value of a number: seconds that correct an earlier event can be negative."""
    return abs(seconds) if type(seconds) in (int, float) else None
