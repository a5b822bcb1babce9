"""The line that says that a store is waited for: one per outage, after a few seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from clac_jax.stores.failures import Failure, Kind

NOTICE_SECONDS = 3.0


class Notice:
    """Reports once, until the store answers again, that the calls of a connection wait for it."""

    def __init__(self, url: str, say: Callable[[str], None]):
        """Nothing is waited for yet.

        Args:
            url: the store.
            say: called with each line.
        """
        self._url, self._say = url, say
        self._lock = threading.Lock()
        self._has_answered = self._is_reported = False
        self._failure: Failure | None = None

    @contextlib.contextmanager
    def watching(self, patience_seconds: float) -> Iterator[None]:
        """Reports a call that waits for the first answer of the store; the others: see `failed`.

        An address that leads nowhere lets a connection hang rather than fail. Later on, a request
        of some seconds may just be large.

        Args:
            patience_seconds: how long the call is repeated.
        """
        if self._has_answered:
            yield
            return
        timer = threading.Timer(NOTICE_SECONDS, self._report, [patience_seconds])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def answered(self) -> None:
        """The store has answered; a later outage is a new one."""
        self._has_answered, self._is_reported, self._failure = True, False, None

    def failed(self, failure: Failure, waited: float, left: float) -> None:
        """A request has failed, and is repeated.

        Args:
            failure: why.
            waited: seconds since the first failure of this call.
            left: seconds for which it is still repeated.
        """
        self._failure = failure
        if waited >= NOTICE_SECONDS:
            self._report(left)

    def _report(self, left: float) -> None:
        with self._lock:
            is_reported, self._is_reported = self._is_reported, True
        if is_reported:
            return
        failure = self._failure or Failure(Kind.UNAVAILABLE, "")
        what = "throttles requests" if failure.kind is Kind.THROTTLED else "does not answer"
        detail = f" ({failure.detail})" if failure.detail else ""
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        self._say(f"{self._url} {what}{detail}. Trying again until {until}.")
