"""The watchdog: notices what takes far longer than it usually does, such as a hanging collective.

A run says what it is doing (`Watchdog.watching`), and a thread compares the time since the last
sign of life with what that kind of activity has taken so far in the same run. The thread needs
neither the main thread nor the devices, so it also notices a main thread that hangs in C++.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import ml_collections

from clac_jax.distributed.stacks import is_debugged
from clac_jax.distributed.supervisor_pipe import pipe_to_supervisor, show_life

T = TypeVar("T")

MAX_TICK_SECONDS = 5.0
TICKS_PER_FLOOR = 20
END_SECONDS = 900.0  # for the end after a hang, with its save and uploads
# Kinds of activities that are watched in more than one place.
STEP = "a training step"
SAVE, WRITING = "a save", "a checkpoint to be written"
SAVES = (SAVE, WRITING)
KEPT_DURATIONS = 100  # of each kind of activity, for its median


@dataclass(frozen=True)
class Hang:
    """An activity that exceeds its limit.

    Attributes:
        kind: what is waited for, "a training step".
        seconds: time without a sign of life.
        limit: largest time allowed, seconds.
        usual: median of earlier activities of this kind, seconds; None if there is none.
    """

    kind: str
    seconds: float
    limit: float
    usual: float | None

    def describe(self) -> str:
        """A phrase that follows "has been waiting": for what, how long, and what is usual."""
        why = "config.watchdog.first_seconds"
        if self.usual is not None:
            why = f"config.watchdog; the median is {_rounded(self.usual)}"
        limit = _rounded(self.limit)
        return f"for {self.kind} for {_rounded(self.seconds)} (limit {limit}: {why})"


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


class _Activity:
    """The present activity of a thread.

    Attributes:
        kind: see `Hang`; "" if it may take any time.
        is_new: whether it may take as long as the first one of its kind.
        mark: time of the last sign of life, and time for which the process was suspended by then.
        longest: longest time between two signs of life, seconds.
    """

    __slots__ = ("is_new", "kind", "longest", "mark")

    def __init__(self, kind: str, is_new: bool, mark: tuple[float, float]):
        self.kind, self.is_new, self.mark, self.longest = kind, is_new, mark, 0.0


class Watch(Protocol):
    """The interface of a run to its watchdog; see `Watchdog`."""

    save_first: Callable[[], str]

    def __enter__(self) -> Watch:
        """Starts watching."""

    def __exit__(self, *raised: object) -> None:
        """Stops watching."""

    def watching(self, kind: str, is_new: bool = False) -> contextlib.AbstractContextManager[None]:
        """Context of one activity of this thread."""

    def unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Context of an activity that may take any time."""

    def steps(self, batches: Iterable[T], is_new: Callable[[T], bool]) -> Iterator[T]:
        """The batches; watches the wait for each one, and the step that uses it."""

    def alive(self) -> None:
        """Reports progress within the present activity."""

    def is_doing(self, kind: str) -> bool:
        """Whether this is the present activity of the main thread."""


class Watchdog:
    """Watches the activities of all threads of this process.

    An activity may take `factor` times the median of the earlier ones of its kind, but at least
    `floor_seconds`. The first of a kind, one that compiles and the one after it (which may wait for
    another process to compile) may take `first_seconds`. If activities are nested, only the
    innermost one is timed. Time for which the machine or the process was suspended does not count:
    it is recognized by the late wake-ups of the watching thread, as in `Link`. Nor does time in a
    debugger.

    Attributes:
        hang: the activity that has exceeded its limit; None while there is none.
        save_first: what `on_hang` may call to save what can be saved; returns a sentence.
        on_orphaned: called, in a thread, if the program that supervises this one was killed.
    """

    def __init__(
        self,
        options: ml_collections.ConfigDict,
        on_hang: Callable[[Hang], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Watches nothing until it is entered as a context.

        Args:
            options: the group `config.watchdog`.
            on_hang: called at most once, in the watching thread; should end the program.
            clock: the time, seconds.
        """
        self._options = options
        self._on_hang = on_hang
        self._clock = clock
        self._tick = min(MAX_TICK_SECONDS, options.floor_seconds / TICKS_PER_FLOOR)
        self._activities: dict[int, list[_Activity]] = {}  # by thread, the innermost last
        self._durations: dict[str, deque[float]] = {}
        self._settling: set[str] = set()  # kinds whose last activity was new
        self._last_tick, self._suspended = clock(), 0.0
        self._stopped = threading.Event()
        self._owner = 0
        self.hang: Hang | None = None
        self.save_first: Callable[[], str] = lambda: ""
        self.on_orphaned: Callable[[], None] = lambda: None

    def __enter__(self) -> Watchdog:
        self._owner = threading.get_ident()
        self._last_tick = self._clock()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        supervisor = pipe_to_supervisor()
        if supervisor is not None:  # not in the watching thread, where a hang may end for minutes
            name, arguments = "signs of life", (supervisor,)
            thread = threading.Thread(target=self._live, args=arguments, name=name, daemon=True)
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()

    @contextlib.contextmanager
    def watching(self, kind: str, is_new: bool = False) -> Iterator[None]:
        """Context of one activity of this thread.

        Args:
            kind: what is waited for, "a training step": activities of one kind take similar times.
            is_new: whether this one may take longer than usual, because it compiles.
        """
        activities = self._activities.setdefault(threading.get_ident(), [])
        self.alive()  # for the surrounding activity
        is_settling = kind in self._settling
        activity = _Activity(kind, is_new or is_settling, self._mark())
        activities.append(activity)
        try:
            yield
            self._wait_if_ending()
            if kind and not activity.is_new:
                self._note(activity)
                kept = self._durations.setdefault(kind, deque(maxlen=KEPT_DURATIONS))
                kept.append(activity.longest)
            if is_new:
                self._settling.add(kind)
            elif is_settling:
                self._settling.discard(kind)
        finally:
            activities.pop()
            self.alive()

    def unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Context of an activity that may take any time."""
        return self.watching("")

    def steps(self, batches: Iterable[T], is_new: Callable[[T], bool]) -> Iterator[T]:
        """The batches; watches the wait for each one, and the step that uses it.

        Args:
            batches: batches of training data.
            is_new: whether the step of a batch has to be compiled.
        """
        waiting = iter(batches)
        while True:
            with self.watching("a batch of training data"):
                batch = next(waiting, None)
            if batch is None:
                return
            with self.watching(STEP, is_new(batch)):
                yield batch

    def alive(self) -> None:
        """Reports progress within the present activity of this thread, whose time starts again."""
        self._wait_if_ending()
        activities = self._activities.get(threading.get_ident())
        if activities:
            self._note(activities[-1])

    def is_doing(self, kind: str) -> bool:
        """Whether this is the present activity of the main thread; asked from another thread."""
        activities = list(self._activities.get(self._owner, ()))
        return bool(activities) and activities[-1].kind == kind

    def describe(self) -> str:
        """The activities of all threads of this process, in words: "a training step"."""
        kinds = [each[-1].kind for each in list(self._activities.values()) if each]
        return " and ".join(filter(None, kinds)) or "nothing that is watched"

    def check(self) -> None:
        """Compares all activities with their limits; called regularly by the watching thread."""
        now = self._clock()
        elapsed, self._last_tick = now - self._last_tick, now
        if is_debugged():
            self._suspended += elapsed
        elif elapsed > 2 * self._tick + 1:
            self._suspended += elapsed - self._tick
        for activities in list(self._activities.values()):
            for activity in activities[-1:]:
                since, suspended = activity.mark
                seconds = now - since - (self._suspended - suspended)
                limit, usual = self._limit(activity)
                if not activity.kind or seconds <= limit or self.hang:
                    continue
                self.hang = Hang(activity.kind, seconds, limit, usual)
                self._on_hang(self.hang)

    def _limit(self, activity: _Activity) -> tuple[float, float | None]:
        """(limit of an activity, median on which it is based or None), seconds."""
        options = self._options
        durations = list(self._durations.get(activity.kind, ()))
        if activity.is_new or not durations:
            return max(options.first_seconds, options.floor_seconds), None
        usual = statistics.median(durations)
        return max(options.floor_seconds, options.factor * usual), usual

    def _mark(self) -> tuple[float, float]:
        return self._clock(), self._suspended

    def _note(self, activity: _Activity) -> None:
        mark = self._mark()
        between = mark[0] - activity.mark[0] - (mark[1] - activity.mark[1])
        activity.longest = max(activity.longest, between)
        activity.mark = mark

    def _wait_if_ending(self) -> None:
        """Blocks the main thread once a hang was noticed: the state must not change any more."""
        while self.hang is not None and threading.get_ident() == self._owner:
            time.sleep(3600)

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick):
            self.check()

    def _live(self, supervisor: int) -> None:
        last = math.inf
        while not self._stopped.wait(self._tick):
            if self.hang is not None:
                last = min(last, time.monotonic() + END_SECONDS)
            if time.monotonic() < last and not show_life(supervisor):
                os.close(supervisor)
                self.on_orphaned()
                return
        os.close(supervisor)  # from now on, silence means nothing


class NoWatchdog:
    """The watchdog of a run that has none."""

    def __init__(self) -> None:
        self.save_first: Callable[[], str] = lambda: ""

    def __enter__(self) -> NoWatchdog:
        return self

    def __exit__(self, *raised: object) -> None:
        """Does nothing."""

    def watching(self, kind: str, is_new: bool = False) -> contextlib.AbstractContextManager[None]:
        """Does nothing."""
        del kind, is_new
        return contextlib.nullcontext()

    def unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Does nothing."""
        return contextlib.nullcontext()

    def steps(self, batches: Iterable[T], is_new: Callable[[T], bool]) -> Iterator[T]:
        """The batches."""
        del is_new
        return iter(batches)

    def alive(self) -> None:
        """Does nothing."""

    def is_doing(self, kind: str) -> bool:
        """False: nothing is known."""
        del kind
        return False


class Patient(NoWatchdog):
    """A view of a watchdog for activities that may take any time, such as waits for a bucket."""

    def __init__(self, watchdog: Watch):
        """Passes nothing on to the watchdog but that an activity is not to be timed."""
        super().__init__()
        self._watchdog = watchdog

    def watching(self, kind: str, is_new: bool = False) -> contextlib.AbstractContextManager[None]:
        """See `Watchdog.unwatched`."""
        del kind, is_new
        return self._watchdog.unwatched()

    def unwatched(self) -> contextlib.AbstractContextManager[None]:
        """See `Watchdog.unwatched`."""
        return self._watchdog.unwatched()
