"""The throughput of a run, and the time it spends waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from clac_jax.reporting.events import Events, NoEvents

T = TypeVar("T")


class Meter:
    """Examples per second and the fraction of time spent waiting for data, between readings."""

    def __init__(self, examples_per_step: int, events: Events | NoEvents):
        """Starts measuring; the time spent waiting is also attributed in `events`."""
        self._examples_per_step = examples_per_step
        self._events = events
        self._reset()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches, and adds up the time spent waiting for each of them."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            with self._events.during("data_wait"):
                batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            self._steps += 1
            yield batch

    def read(self) -> tuple[float, float]:
        """(examples per second, fraction of time spent waiting); restarts the measurement."""
        elapsed = time.perf_counter() - self._since
        result = self._steps * self._examples_per_step / elapsed, self._waited / elapsed
        self._reset()
        return result

    def _reset(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
