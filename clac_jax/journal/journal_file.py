"""`steps.journal` and `starts.jsonl`: written by the first process of a run, read by anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import WorkdirError, warn
from clac_jax.files.appended import AppendedFile, rename_away
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.journal.record import DTYPE, StepRecord, header, parse

STEPS_FILE = "steps.journal"
STARTS_FILE = "starts.jsonl"
START = "start"  # the event of a start of the program
HEALED = "healed"  # the event of a change by `clac_jax.healing`, which every later start follows


@dataclass(frozen=True)
class Journal:
    """The records of a run.

    Attributes:
        steps: (records,) ascending by step; dtype `clac_jax.journal.record.DTYPE`.
        events: one object per start of the program and other event, in the order of their
            occurrence; each has `event`, `step` (the steps done before it) and `start` (the number
            of the start during which it happened, from 1).
    """

    steps: np.ndarray
    events: Sequence[Mapping[str, Any]]

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """The starts of the program."""
        return [event for event in self.events if event["event"] == START]

    def at(self, step: int) -> StepRecord | None:
        """The record of a step; None if there is none."""
        index = int(np.searchsorted(self.steps["step"], step))
        if index == len(self.steps) or self.steps["step"][index] != step:
            return None
        return StepRecord.from_row(self.steps[index])


NO_JOURNAL = Journal(np.zeros(0, DTYPE), ())


class JournalFile:
    """Writes the journal of a run: each step once, however often the run is started.

    Attributes:
        start: number of this start of the program, from 1.
        kept: the records from before this start.
    """

    def __init__(self, workdir: Path, step: int, resumed: bool = True):
        """Opens both files, and drops the records that a resumed run is about to write again.

        Args:
            workdir: the run's workdir.
            step: step from which the run resumes; later records are dropped, and so are incomplete
                ones at the end.
            resumed: whether the existing files belong to this run; if not, they are renamed.

        Raises:
            DamagedJournalError: a file holds something else.
            WorkdirError: a file cannot be read or written.
        """
        steps, starts = workdir / STEPS_FILE, workdir / STARTS_FILE
        if not resumed:
            for path in (steps, starts):
                if kept := rename_away(path):
                    warn(
                        f"{path} has records of an earlier run, but the workdir has no checkpoint "
                        f"of it. They are kept in {kept.name}, and this run writes a new file."
                    )
        elif step and starts.exists() and not steps.exists():
            warn(
                f"{steps} does not exist, so the records up to step {step} are missing. Put it "
                "back and start again, if you have it."
            )
        rows = read_steps(steps)
        events = [e for e in read_events(starts) if e["step"] <= step or e["event"] == HEALED]
        own = rows[rows["step"] <= step]
        write_atomically(steps, header() + own.tobytes())
        write_atomically(starts, b"".join(map(_line, events)))
        self.kept = Journal(own, events)
        self.start = 1 + max((event["start"] for event in events), default=0)
        self._steps = AppendedFile(steps, "records")
        self._events = AppendedFile(starts, "records")

    def write(self, record: StepRecord) -> None:
        """Appends the record of a step.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short; the record is safe.
            WorkdirError: the disk is full.
        """
        self._steps.append(record.to_bytes())

    def write_event(self, event: str, step: int, facts: Mapping[str, Any]) -> None:
        """Appends an event; `facts` are plain values. Errors as for `write`."""
        row = {"event": event, "step": step, "start": self.start, **facts}
        self._events.append(_line(row))

    def sync(self) -> None:
        """Forces everything to disk; errors as for `write`."""
        self._steps.sync()
        self._events.sync()

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir; the open files were moved with it."""
        self._steps.follow(workdir)
        self._events.follow(workdir)

    def close(self) -> None:
        """Closes the files."""
        self._steps.close()
        self._events.close()


def read_journal(workdir: Path) -> Journal:
    """Reads what a run has recorded; empty if it has no journal.

    Raises:
        DamagedJournalError: a file holds something that no run has written there.
        WorkdirError: a file cannot be read.
    """
    return Journal(read_steps(workdir / STEPS_FILE), read_events(workdir / STARTS_FILE))


def read_steps(path: Path) -> np.ndarray:
    """The rows of a `steps.journal`; see `clac_jax.journal.record.parse`."""
    content = _content(path)
    return parse(content, str(path)) if content else np.zeros(0, DTYPE)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The objects in a `starts.jsonl`, without a last line that was cut off by a kill.

    Raises:
        WorkdirError: the file cannot be read, or a line other than the last is invalid.
    """
    events = []
    for number, line in enumerate(_content(path).split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict) or not all(
            type(event.get(name)) is kind
            for name, kind in (("event", str), ("step", int), ("start", int))
        ):
            raise WorkdirError(f"{path}, line {number} is not an event. Fix or remove that line.")
        events.append(event)
    return events


def _content(path: Path) -> bytes:
    try:
        if not path.exists():
            return b""
        if not path.is_file():
            raise WorkdirError(f"{path} is not a file. Move it away and start again.")
        return path.read_bytes()
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
