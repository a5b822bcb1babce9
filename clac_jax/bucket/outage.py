"""Reports that a store cannot be reached, once, and that it can be reached again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from clac_jax.errors import warn
from clac_jax.stores.errors import StoreError, UnavailableError


class Outage:
    """The state of the connection to the store, as its threads find it."""

    def __init__(self, url: str, say: Callable[[str], None] = warn):
        """Nothing has failed yet.

        Args:
            url: the workdir in the bucket.
            say: called with each line.
        """
        self._url, self._say = url, say
        self._lock = threading.Lock()
        self._trains = True
        self._since: float | None = None
        self._reached = float("-inf")
        self._kind: type[StoreError] | None = None

    def training_ends(self) -> None:
        """Reports no more outages from now on: the caller says what waits."""
        self._trains = False

    def report(self, error: StoreError | None) -> None:
        """Reports the outcome of a request: the error that it ended with, or None."""
        with self._lock:
            now = time.monotonic()  # the time of day may be set in between
            if isinstance(error, UnavailableError) and now - error.waited < self._reached:
                return  # another thread has reached the store since these requests began to fail
            if error is None:
                since, self._since, self._kind = self._since, None, None
                self._reached = now
                if since is not None:
                    self._say(
                        f"{self._url} can be written to again, after {_minutes(now - since)}; "
                        "what was waiting is uploaded."
                    )
            elif (
                self._trains and type(error) is not self._kind
            ):  # an outage may turn into expired credentials
                self._kind = type(error)
                self._since = self._since or now
                start = time.strftime("%H:%M:%S", time.localtime(time.time() + self._since - now))
                self._say(
                    f"{error} Training continues; uploads wait since {start} and are tried again."
                )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
