"""Repetition of failed requests, with growing pauses, and a limit of bytes per second."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from clac_jax.stores.failures import Failure, Kind

# First and longest pause in seconds; each pause is up to twice as long as the one before.
_PAUSES = {Kind.UNAVAILABLE: (0.1, 5.0), Kind.THROTTLED: (1.0, 20.0)}
# Its own generator: the global one belongs to the run.
_random = random.Random()


@dataclass(frozen=True)
class Clock:
    """Time, replaced in tests.

    Attributes:
        now: seconds by a clock that never goes back.
        sleep: waits for a number of seconds.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL_CLOCK = Clock()


class Patience:
    """Decides for one call whether a failed request is repeated, and waits before it is."""

    def __init__(self, seconds: float, clock: Clock = REAL_CLOCK):
        self._seconds, self._clock = seconds, clock
        self._start: float | None = None
        self._tries = dict.fromkeys(_PAUSES, 0)

    @property
    def waited(self) -> float:
        """Seconds since the first failure."""
        return 0.0 if self._start is None else self._clock.now() - self._start

    @property
    def left(self) -> float:
        """Seconds for which a failed request is still repeated."""
        return max(0.0, self._seconds - self.waited)

    def allows_another_try(self, failure: Failure) -> bool:
        """Waits and returns True, or returns False when patience is at its end."""
        if not failure.kind.is_transient:
            return False
        if self._start is None:
            self._start = self._clock.now()
        first, longest = _PAUSES[failure.kind]
        limit = min(longest, first * 2.0 ** self._tries[failure.kind])
        self._tries[failure.kind] += 1
        # Half of the pause is random: clients that failed together try again one by one.
        pause = limit * (0.5 + 0.5 * _random.random())
        left = self._seconds - self.waited
        if left <= 0:
            return False
        self._clock.sleep(min(pause, left))
        return True


class Bandwidth:
    """A limit of bytes per second over all requests of a store, in both directions."""

    def __init__(self, bytes_per_second: float = 0.0, clock: Clock = REAL_CLOCK):
        self._rate, self._clock = bytes_per_second, clock
        self._lock = threading.Lock()
        self._free_at = clock.now()

    def take(self, count: int) -> None:
        """Waits until `count` bytes may pass; without a limit it returns immediately."""
        if not self._rate:
            return
        with self._lock:
            start = max(self._free_at, self._clock.now())
            self._free_at = start + count / self._rate
        if (wait := start - self._clock.now()) > 0:
            self._clock.sleep(wait)
