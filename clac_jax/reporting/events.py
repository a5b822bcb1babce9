"""`events.jsonl`: what a run did when, over all its starts; the source of `clac-jax goodput`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from clac_jax.distributed.preemption import Preempted
from clac_jax.errors import UserError, WorkdirError, warn
from clac_jax.files.paths import explain

EVENTS_FILE = "events.jsonl"

ACTIVITIES = (
    "start",
    "data",
    "restore",
    "compile",
    "train",
    "data_wait",
    "save_wait",
    "validation",
    "test",
)
"""The activities of a process, which at each moment has exactly one of them."""

SHORTEST_PAUSE, LONGEST_PAUSE, SHARE = 1.0, 60.0, 0.02
"""Seconds between two events of progress, and their share of the age of the start between these.

A kill leaves at most this time unaccounted.
"""

DOUBLING_BYTES = 1 << 20
"""Bytes of the file that double that pause, so that the file of a run of years stays small."""

Span = tuple[float, float, str]
"""Begin and end (monotonic seconds) of an activity."""

MAX_SPANS = 1000
_LONGEST_AGE = 3600.0  # seconds; of a process that is about to train
_COMPILING = "/jax/core/compile/"


class Events:
    """Appends events to a file, each with the seconds per activity since the one before it.

    Every moment from the start of the process belongs to exactly one activity, so the seconds of
    a start add up to its duration. The file is never cut back: steps that a kill has lost are what
    it serves to measure. A file that cannot be written is reported once, and the run continues.
    """

    def __init__(self, path: Path, began: float | None = None):
        """Opens the file, or makes it, and records the start.

        Args:
            path: path of the file; what it holds is kept.
            began: unix seconds at which this start began; by default, now.
        """
        self._path = path
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._file: BinaryIO | None = None
        self._size = 0
        self.start = secrets.token_hex(4)
        now = time.time()
        began = now if began is None else min(began, now)
        # Wall-clock time can be set back during a run, and seconds must add up.
        self._offset = now - time.monotonic()
        self._since = began - self._offset
        self._opened = self._recorded = time.monotonic()
        self._closing = threading.Event()
        self._stack = ["start"]
        self._spans: list[Span] = []  # since the last event
        self._recorded_spans: list[Span] = []  # those before, as far as needed
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._position: dict[str, int] = {}
        self._saved: int | None = None
        self._open()
        self.record("start", began=round(began, 3), process=os.getpid())

    def __enter__(self) -> Events:
        """Starts recording the progress at intervals, and what JAX compiles in this thread."""
        from jax import monitoring  # imports JAX, which readers of the file do not need

        monitoring.register_event_duration_secs_listener(self._on_duration)
        # A thread, since a compilation or a collective can take minutes.
        self._beats = threading.Thread(target=self._beat, name="events", daemon=True)
        self._beats.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Records how the start has ended, and closes the file."""
        from jax import monitoring

        self._closing.set()
        self._beats.join()
        monitoring.unregister_event_duration_listener(self._on_duration)
        if error is None:
            self.record("ended")
        elif isinstance(error, Preempted):
            self.record("stopped", signal=error.signal_name)
        else:
            self.record("failed", error=type(error).__name__)
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Attributes the time of the body to an activity; calls can be nested."""
        self._enter([*self._stack, activity])
        try:
            yield
        finally:
            self._enter(self._stack[:-1])

    def phase(self, activity: str) -> None:
        """Sets the activity of the time outside of `during`."""
        self._enter([activity, *self._stack[1:]])

    def restored(self, step: int, epoch: int) -> None:
        """Records the position from which this start trains; see `progress`."""
        self._position = {"step": step, "epoch": epoch}
        self.record("restored")

    def saved(self, step: int) -> None:
        """Notes a save, for the next event."""
        self._saved = step

    def progress(self, step: int, epoch: int) -> None:
        """Sets the position of the run, for the next event.

        Args:
            step: optimizer updates so far.
            epoch: the present epoch; it advances when its validation has been done.
        """
        self._position = {"step": step, "epoch": epoch}

    def record_if_due(self) -> None:
        """Records the position of the run, unless the last event is recent."""
        age = time.monotonic() - self._opened
        pause = min(max(SHORTEST_PAUSE, SHARE * age), LONGEST_PAUSE)
        if time.monotonic() - self._recorded >= pause * 2 ** (self._size // DOUBLING_BYTES):
            self.record("progress")

    def record(self, kind: str, **fields: Any) -> None:
        """Appends an event, from any thread, with the position of the run if that is known.

        Args:
            kind: what has happened, in one word.
            fields: values that JSON can hold.
        """
        with self._lock:
            self._account()
            self._fold(0)
            seconds = {name: int(1e3 * value) / 1e3 for name, value in self._seconds.items()}
            for name, value in seconds.items():  # what rounding leaves is part of the next event
                self._seconds[name] -= value
            event = {"kind": kind, "at": round(self._since + self._offset, 3), "start": self.start}
            event |= self._position | fields
            if self._saved is not None:
                event["saved"] = self._saved
            event["seconds"] = {name: value for name, value in seconds.items() if value}
            self._saved, self._recorded = None, self._since
            self._write(event)

    def _beat(self) -> None:
        while not self._closing.wait(SHORTEST_PAUSE):
            self.record_if_due()

    def _enter(self, stack: list[str]) -> None:
        with self._lock:
            self._account()
            self._stack = stack
            if len(self._spans) > MAX_SPANS:
                self._fold(MAX_SPANS // 2)

    def _account(self) -> None:
        """Attributes the time since the last call to the present activity."""
        now = time.monotonic()
        self._spans.append((self._since, now, self._stack[-1]))
        self._since = now

    def _fold(self, kept: int) -> None:
        """Adds up all spans but the last ones, which a compilation that ends may still claim."""
        count = len(self._spans) - kept
        for begin, end, activity in self._spans[:count]:
            self._seconds[activity] += end - begin
        self._recorded_spans = [*self._recorded_spans, *self._spans[:count]][-MAX_SPANS:]
        del self._spans[:count]

    def _on_duration(self, event: str, duration_secs: float, **facts: str | int) -> None:
        """Attributes a compilation that has just ended; those within it came before it."""
        del facts
        if not event.startswith(_COMPILING) or threading.get_ident() != self._main:
            return
        with self._lock:
            self._account()
            began = self._since - duration_secs
            if claimed := _claim(self._spans, began):
                self._spans.append((claimed[-1][0], self._since, "compile"))
            # What was already recorded is corrected by the next event.
            for begin, end, activity in _claim(self._recorded_spans, began):
                self._seconds[activity] -= end - begin
                self._seconds["compile"] += end - begin

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (see __exit__)
            self._size = self._file.seek(0, os.SEEK_END)
            if self._size:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # a kill has cut off the last line
                    self._file.write(b"\n")
        except OSError as error:
            self._give_up(error)

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._size += self._file.write(json.dumps(event).encode() + b"\n") or 0
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        warn(
            f"Cannot write {self._path}: {explain(error)} The run continues; `clac-jax goodput` "
            "will lack this time."
        )


def _claim(spans: list[Span], began: float) -> list[Span]:
    """Removes from ascending spans all time after a moment; returns it, latest first."""
    claimed = []
    while spans and spans[-1][1] > began:
        begin, end, activity = spans.pop()
        if begin < began:
            spans.append((begin, began, activity))
        claimed.append((max(begin, began), end, activity))
    return claimed


class NoEvents:
    """The events of all processes except the first, which record none."""

    def during(self, activity: str) -> contextlib.AbstractContextManager[None]:
        """Does nothing."""
        del activity
        return contextlib.nullcontext()

    def phase(self, activity: str) -> None:
        """Does nothing."""

    def restored(self, step: int, epoch: int) -> None:
        """Does nothing."""

    def saved(self, step: int) -> None:
        """Does nothing."""

    def progress(self, step: int, epoch: int) -> None:
        """Does nothing."""

    def record(self, kind: str, **fields: Any) -> None:
        """Does nothing."""


def process_began() -> float:
    """Unix seconds at which the operating system started this process; now, if that is unknown."""
    now = time.time()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        booted = now - time.clock_gettime(time.CLOCK_BOOTTIME)
        began = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        return now
    return began if now - _LONGEST_AGE < began < now else now


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
