"""Reads `events.jsonl`, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, WorkdirError, counted, noun_for
from clac_jax.files.paths import explain

MAX_LINE = 1 << 16  # bytes; an event has a few hundred
_LATEST, _LONGEST, _MOST = 1e11, 1e10, 1e15  # unix seconds, seconds, steps


def read_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads the events of a file, oldest first, and the number of lines that are none.

    A kill can cut off a line, and a copy of the file can lack its end.

    Raises:
        NoEventsError: there is no such file, or no line of it is an event.
        WorkdirError: it cannot be read.
    """
    events, unread = [], 0
    try:
        if path.exists() and not path.is_file():
            raise WorkdirError(f"{path} is not a file. Name the workdir of a run.")
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE):
                event = _event(line)
                if event is not None:
                    events.append(event)
                    continue
                unread += 1
                while line and not line.endswith(b"\n"):  # the rest of a line that is too long
                    line = file.readline(MAX_LINE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoEventsError(missing(str(path))) from error
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    if not events:
        are = f"its {counted(unread, 'line')} {noun_for(unread, 'is', 'are')} none"
        raise NoEventsError(
            f"{path} holds no events: {are if unread else 'it is empty'}. Name the workdir of a "
            "run, or restore the file from a copy."
        )
    return events, unread


def missing(name: str) -> str:
    """The message for a file that does not exist, by its path or URL."""
    return (
        f"{name} does not exist. Name the workdir of a run; runs record events since clac_jax 0.2."
    )


class NoEventsError(UserError):
    """A workdir has no `events.jsonl`, or one without events."""


def _event(line: bytes) -> dict[str, Any] | None:
    """An event with its fields as promised, or None."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    texts = [event.get("kind"), event.get("start")]
    times = [event.get("at"), event.get("began", 0)]
    counts = [event.get(name, 0) for name in ("step", "epoch", "reached")]
    seconds = event.get("seconds", {})
    is_event = (
        all(isinstance(text, str) for text in texts)
        and all(type(each) in (int, float) and 0 <= each < _LATEST for each in times)
        and all(type(each) is int and 0 <= each < _MOST for each in counts)
        and isinstance(seconds, dict)
        # Seconds that correct an earlier event can be negative.
        and all(type(each) in (int, float) and abs(each) < _LONGEST for each in seconds.values())
    )
    return event if is_event else None
