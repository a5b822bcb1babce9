"""The share of a run's wall-clock time that went into training, and where the rest went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.errors import WorkdirError, counted
from clac_jax.reporting.event_reader import NoEventsError, read_events

MEANINGS = {
    "train": "training steps that were kept",
    "lost": "steps that were trained again after a resume",
    "down": "not running, until the next start",
    "hung": "waiting for something that hung",
    "start": "imports, devices, model",
    "lease_wait": "waiting for the lease of a lost process",
    "data": "opening the data, planning shapes",
    "restore": "reading the checkpoint, or fresh weights",
    "compile": "tracing and compilation",
    "data_wait": "waiting for a batch",
    "save_wait": "waiting for a checkpoint",
    "validation": "validation",
    "test": "final test and report",
}
"""Everything that a run's time is divided into; the first is the productive part."""

_BY_STEP = ("train", "data_wait", "save_wait")
"""Activities that are lost with the steps they belong to; a validation is lost with its epoch."""

Position = tuple[int, int]
"""Optimizer updates so far and the epoch, which advances when its validation has been done."""


@dataclass(frozen=True)
class Goodput:
    """The wall-clock time of a run by what it went into.

    Attributes:
        seconds: name in `MEANINGS` -> seconds; they add up to `wall`.
        wall: seconds from the first start to the last event, without the time after an end.
        starts: number of starts.
        kills: number of starts that ended without a word: killed, or crashed.
        hangs: number of starts that ended because something hung.
        lost_steps: optimizer updates that were done again after a resume, as far as known.
        steps: optimizer updates of the run.
        unread: lines of the file that are not events.
    """

    seconds: dict[str, float]
    wall: float
    starts: int
    kills: int
    hangs: int
    lost_steps: int
    steps: int
    unread: int = 0

    @property
    def productive(self) -> float:
        """The share of the time in training steps that were kept, from 0 to 1."""
        return self.seconds["train"] / self.wall if self.wall else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it, as `clac-jax goodput --json` prints it."""
        return {
            "productive": round(self.productive, 4),
            "wall_seconds": round(self.wall, 3),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "starts": self.starts,
            "kills": self.kills,
            "hangs": self.hangs,
            "steps": self.steps,
            "lost_steps": self.lost_steps,
            "unread_lines": self.unread,
        }


def goodput(events: Iterable[Mapping[str, Any]], unread: int = 0) -> Goodput:
    """Divides a run's time, from the events that `events.read_events` has read.

    A kill ends a start without an event; the time since its last one counts as "down". Steps that
    were done in that time are known only if they have left a row.

    Args:
        events: the events of all starts, oldest first.
        unread: number of lines that could not be read.
    """
    spans: list[_Span] = []
    down, lost_steps, starts, kills, hangs = 0.0, 0, 0, 0, 0
    position: Position = (0, 0)
    last: Mapping[str, Any] | None = None
    kinds: set[str] = set()  # of the present start; "progress" may follow the event that ends it
    for event in events:
        if last is None or event["start"] != last["start"]:
            starts += 1
            if last is not None and "ended" not in kinds:
                # The clocks of two hosts may differ.
                down += max(event.get("began", event["at"]) - last["at"], 0.0)
                kills += kinds.isdisjoint(("stopped", "failed", "hung"))
            kinds = set()
        hangs += event["kind"] == "hung" and "hung" not in kinds
        kinds.add(event["kind"])
        before, position = (
            position,
            (event.get("step", position[0]), event.get("epoch", position[1])),
        )
        if event["kind"] == "restored":
            unrecorded = int(event.get("reached", 0)) - max(before[0], position[0])
            lost_steps += sum(span.lose_after(position) for span in spans) + max(unrecorded, 0)
            before = position
        spans.append(_Span(before, position, position, event.get("seconds", {})))
        last = event
    seconds = dict.fromkeys(MEANINGS, 0.0)
    for span in spans:
        for name, value in span.seconds.items():
            lost = value * span.lost_share(name)
            seconds[name if name in MEANINGS else "start"] += value - lost
            seconds["lost"] += lost
    for name in seconds:  # a correction was kept, and what it corrects was lost
        seconds["lost"] += min(seconds[name], 0.0)
        seconds[name] = max(seconds[name], 0.0)
    seconds["down"] = down
    wall = sum(seconds.values())
    return Goodput(seconds, wall, starts, kills, hangs, lost_steps, position[0], unread)


def recorded_seconds(path: Path) -> dict[str, float]:
    """`Goodput.seconds` of a file of events, for the report; {} if it cannot be read.

    The run has warned of that: a report without this bar is better than none.
    """
    try:
        return goodput(*read_events(path)).seconds
    except (NoEventsError, WorkdirError):
        return {}


@dataclass
class _Span:
    """The time between two events, and the progress in it: from `begin` to `end`.

    Attributes:
        kept: how far its progress was kept; before `begin` if it was all lost.
    """

    begin: Position
    end: Position
    kept: Position
    seconds: Mapping[str, float]

    def lose_after(self, position: Position) -> int:
        """Marks the progress after a position as lost; returns the number of its steps."""
        lost = self.kept[0] - max(position[0], self.begin[0])
        self.kept = min(self.kept, position)
        return max(lost, 0)

    def lost_share(self, activity: str) -> float:
        """The share of the seconds of an activity that went into progress that was lost."""
        if activity not in (*_BY_STEP, "validation"):
            return 0.0
        if self.kept < self.begin:
            return 1.0
        unit = int(activity == "validation")  # epochs rather than steps
        done = self.end[unit] - self.begin[unit]
        return (self.end[unit] - self.kept[unit]) / done if done else 0.0


def format_goodput(result: Goodput, name: str) -> str:
    """A run's goodput as a table, largest part first.

    Args:
        result: the goodput.
        name: name of the run.
    """
    wall, starts = format_time(result.wall), counted(result.starts, "start")
    lines = [f"{name}: {wall} in {starts}, {result.productive:.1%} of it training"]
    parts = sorted(result.seconds.items(), key=lambda part: (part[0] != "train", -part[1]))
    for part, value in parts:
        if value > 0 or part == "train":
            share = value / result.wall if result.wall else 0.0
            lines.append(f"{share:>8.1%}  {format_time(value):>12}  {MEANINGS[part]}")
    steps = counted(result.steps, "step")
    were = "was" if result.lost_steps == 1 else "were"
    lines += [
        f"{result.kills} of the starts ended without a word (killed, or the machine was lost), "
        f"{result.hangs} hung",
        f"{result.lost_steps:,} of {steps} {were} trained again",
    ]
    if result.unread:
        are = "lines of the file are not events" if result.unread > 1 else "line is not an event"
        lines.append(f"{result.unread} {are}")
    return "\n".join(lines)


def format_time(seconds: float) -> str:
    """A time in the unit that suits it, from seconds to days."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if hours < 2:
        return f"{minutes:.1f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
