"""How fast a run is and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Examples per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, examples_per_step: int):
        """Starts to measure."""
        self._examples_per_step = examples_per_step
        self._reset()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, while the time each one takes to come is counted."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            self._steps += 1
            yield batch

    def read(self) -> tuple[float, float]:
        """(examples per second, share of time waited); starts anew."""
        elapsed = time.perf_counter() - self._since
        result = self._steps * self._examples_per_step / elapsed, self._waited / elapsed
        self._reset()
        return result

    def _reset(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
