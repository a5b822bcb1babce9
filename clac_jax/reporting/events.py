"""`events.jsonl`: what a run did when, over all its starts; the source of `clac-jax goodput`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from clac_jax.distributed.preemption import Preempted
from clac_jax.errors import warn
from clac_jax.files.paths import explain

EVENTS_FILE = "events.jsonl"

SHORTEST_PAUSE, LONGEST_PAUSE, SHARE = 1.0, 60.0, 0.02
"""Seconds between two events of progress, and their share of the age of the start between these.

In between, the last line is written again every `SHORTEST_PAUSE`: a kill leaves at most this time
unaccounted.
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

    def __init__(
        self, path: Path, began: float | None = None, before: Mapping[str, float] | None = None
    ):
        """Opens the file, or makes it, and records the start.

        Args:
            path: path of the file; what it holds is kept.
            began: unix seconds at which this start began; by default, now.
            before: seconds per activity so far; the rest of the time is that of "start".
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
        self._opened = self._recorded = self._written = self._entered = time.monotonic()
        self._closing = threading.Event()
        self._stack = ["start"]
        self._spans: list[Span] = []  # since the last event
        self._recorded_spans: list[Span] = []  # those before, as far as needed
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._draft: _Draft | None = None
        for name, seconds in (before or {}).items():
            self._seconds[name] += seconds
            self._seconds["start"] -= seconds
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

    def restored(self, step: int, epoch: int, reached: int = 0) -> None:
        """Records the position from which this start trains; see `progress`.

        Args:
            step: optimizer updates so far.
            epoch: the present epoch.
            reached: the last step of which an earlier start has left a row.
        """
        self._position = {"step": step, "epoch": epoch}
        self.record("restored", **({"reached": reached} if reached > step else {}))

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

    def hung(self, reason: str) -> None:
        """Records that the run is ending because something hangs.

        The time since the last change of activity is that of the hang, and so is all that follows.
        """
        with self._lock:
            self._account()
            self._attribute("hung", self._entered)
            self._stack = [*self._stack, "hung"]
        self.record("hung", reason=reason)

    def record_if_due(self) -> None:
        """Records the position of the run: by a new line, or by changing the last one."""
        now = time.monotonic()
        if now - self._written < SHORTEST_PAUSE:
            return
        pause = min(max(SHORTEST_PAUSE, SHARE * (now - self._opened)), LONGEST_PAUSE)
        is_due = now - self._recorded >= pause * 2 ** (self._size // DOUBLING_BYTES)
        self._record("progress", {}, is_draft=not is_due)

    def record(self, kind: str, **fields: Any) -> None:
        """Appends an event, from any thread, with the position of the run if that is known.

        Args:
            kind: what has happened, in one word.
            fields: values that JSON can hold.
        """
        self._record(kind, fields, is_draft=False)

    def _record(self, kind: str, fields: Mapping[str, Any], is_draft: bool) -> None:
        with self._lock:
            self._account()
            self._fold(0)
            seconds = {name: int(1e3 * value) / 1e3 for name, value in self._seconds.items()}
            for name, value in seconds.items():  # what rounding leaves is part of the next event
                self._seconds[name] -= value
            event = {"kind": kind, "at": round(self._since + self._offset, 3), "start": self.start}
            event |= {**self._position, **fields}
            if self._saved is not None:
                event["saved"] = self._saved
            event["seconds"] = {name: value for name, value in seconds.items() if value}
            self._saved, self._written = None, self._since
            draft = self._draft if kind == "progress" else None
            self._write(event if draft is None else draft.merged(event), draft, is_draft)
            if not is_draft:
                self._recorded = self._since

    def _beat(self) -> None:
        while not self._closing.wait(SHORTEST_PAUSE):
            self.record_if_due()

    def _enter(self, stack: list[str]) -> None:
        with self._lock:
            self._account()
            self._stack, self._entered = stack, self._since
            if len(self._spans) > MAX_SPANS:
                self._fold(MAX_SPANS // 2)

    def _account(self) -> None:
        """Attributes the time since the last call to the present activity."""
        now = time.monotonic()
        _append(self._spans, (self._since, now, self._stack[-1]))
        self._since = now

    def _fold(self, kept: int) -> None:
        """Adds up all spans but the last ones, which a compilation that ends may still claim."""
        count = len(self._spans) - kept
        for begin, end, activity in self._spans[:count]:
            self._seconds[activity] += end - begin
            _append(self._recorded_spans, (begin, end, activity))
        del self._recorded_spans[:-MAX_SPANS]
        del self._spans[:count]

    def _on_duration(self, event: str, duration_secs: float, **facts: str | int) -> None:
        """Attributes a compilation that has just ended; those within it came before it."""
        del facts
        if not event.startswith(_COMPILING) or threading.get_ident() != self._main:
            return
        with self._lock:
            self._account()
            self._attribute("compile", self._since - duration_secs)

    def _attribute(self, activity: str, began: float) -> None:
        """Attributes all time since a moment to one activity."""
        if claimed := _claim(self._spans, began):
            self._spans.append((claimed[-1][0], self._since, activity))
        # What was already recorded is corrected by the next event.
        for begin, end, other in _claim(self._recorded_spans, began):
            self._seconds[other] -= end - begin
            self._seconds[activity] += end - begin

    def _open(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 (see __exit__)
            self._size = self._file.seek(0, os.SEEK_END)
            if self._size:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # a kill has cut off the last line
                    self._size += self._file.write(b"\n") or 0
        except OSError as error:
            self._give_up(error)

    def _write(self, event: dict[str, Any], old: _Draft | None, is_draft: bool) -> None:
        """Writes a line: at the end, or over an old one, which does not get shorter."""
        if self._file is None:
            return
        self._draft = None
        try:
            size = os.fstat(self._file.fileno()).st_size
            if size != self._size:  # somebody has cut it
                old, self._size = None, size
            start = self._size if old is None else old.place
            line = json.dumps(event).encode().ljust(self._size - start - 1) + b"\n"
            self._size = start + os.pwrite(self._file.fileno(), line, start)
            if is_draft:
                self._draft = _Draft(start, event)
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


@dataclass(frozen=True)
class _Draft:
    """The last line of the file, if the next event of progress is to replace it.

    Attributes:
        place: where it begins, bytes.
        event: its content.
    """

    place: int
    event: Mapping[str, Any]

    def merged(self, event: dict[str, Any]) -> dict[str, Any]:
        """A later event, with what the draft has counted so far."""
        before, seconds = self.event["seconds"], event["seconds"]
        sums = {
            name: round(before.get(name, 0) + seconds.get(name, 0), 3)
            for name in {**before, **seconds}
        }
        saved = {"saved": self.event["saved"]} if "saved" in self.event else {}
        return saved | event | {"seconds": {name: value for name, value in sums.items() if value}}


def _append(spans: list[Span], span: Span) -> None:
    """Adds a span, or lengthens the last one if it has the same activity."""
    begin, end, activity = span
    if spans and spans[-1][1:] == (begin, activity):
        spans[-1] = (spans[-1][0], end, activity)
    else:
        spans.append(span)


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

    def restored(self, step: int, epoch: int, reached: int = 0) -> None:
        """Does nothing."""

    def hung(self, reason: str) -> None:
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
