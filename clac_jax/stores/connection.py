"""The part of a store that its children share: clients of the bucket, limits, counters."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from clac_jax.errors import warn
from clac_jax.stores.client import open_client
from clac_jax.stores.failures import Failure, Kind, classify
from clac_jax.stores.messages import error_of
from clac_jax.stores.notice import Notice
from clac_jax.stores.retries import Bandwidth, Patience
from clac_jax.stores.transfer import library_errors
from clac_jax.stores.url import BucketUrl

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

_SLOWEST = 2e6
"""Bytes per second at which a request of more than one part must still come through."""

_RETRIES_OF_A_PART = 5


@dataclass(frozen=True)
class StoreOptions:
    """Limits and patience of a store.

    Attributes:
        max_bytes_per_second: limit over all requests of a store and its children; 0 for none.
        concurrency: parts of one file that are in transit at a time.
        part_bytes: size of a part, at least 5 MiB for S3; `concurrency` of them are in memory for
            each large file in transit.
        patience_seconds: how long a call repeats requests that fail before it raises.
        request_seconds: limit for one request of at most `part_bytes`.
        say: called with a line, after a few seconds, when the store is waited for.
    """

    max_bytes_per_second: float = 0
    concurrency: int = 4
    part_bytes: int = 8 << 20
    patience_seconds: float = 60
    request_seconds: float = 60
    say: Callable[[str], None] = warn


USUAL = StoreOptions()


@dataclass
class Counts:
    """Numbers of requests, retries and bytes of a store and its children."""

    requests: int = 0
    retries: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **numbers: int) -> None:
        """Adds to the counters; safe in threads."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)


class Connection:
    """Clients of a bucket and the repetition of failed requests.

    Attributes:
        options: limits and patience.
        bandwidth: the limit of bytes per second.
        counts: numbers of requests, retries and bytes.
    """

    def __init__(self, url: BucketUrl, options: StoreOptions):
        self.options = options
        self.bandwidth = Bandwidth(options.max_bytes_per_second)
        self.counts = Counts()
        self._url = url
        self._has_answered = False
        self._notice = Notice(str(url), options.say)
        self._clients: dict[tuple[float, int], ObjectStore] = {}
        self.client()  # a wrong setting is reported now

    def client(self, size: int = 0) -> ObjectStore:
        """A client whose requests may take as long as `size` bytes need on a slow connection."""
        if size <= self.options.part_bytes:
            return self._client(self.options.request_seconds, 0)
        # Rounded up to a power of two, so that there are few clients.
        seconds = 2.0 ** math.ceil(math.log2(self.options.request_seconds + size / _SLOWEST))
        return self._client(seconds, 0)

    def client_for_parts(self) -> ObjectStore:
        """A client that repeats a part that fails."""
        return self._client(self.options.request_seconds, _RETRIES_OF_A_PART)

    def repeat(self, request: Callable[[], T], action: str, url: str) -> T:
        """Runs a request, again and again while its failures are transient.

        Args:
            request: makes the request; obtains its client each time.
            action: "read", "write", "delete" or "list", for the message.
            url: the object, for the message.

        Raises:
            StoreError: the class that `error_of` gives the last failure.
        """
        with self._notice.watching(self.options.patience_seconds):
            return self._repeat(request, action, url)

    def _repeat(self, request: Callable[[], T], action: str, url: str) -> T:
        patience = Patience(self.options.patience_seconds)
        is_renewed = False
        while True:
            self.counts.add(requests=1)
            try:
                result = request()
                self._has_answered = True
                self._notice.answered()
                return result
            except library_errors() as error:
                failure = self._failure(error)
            if failure.kind is Kind.EXPIRED and not is_renewed:
                self._clients = {}  # new ones read files with credentials again
                is_renewed = True
            elif not patience.allows_another_try(failure):
                raise error_of(failure, action, url, patience.waited) from None
            else:
                self._notice.failed(failure, patience.waited, patience.left)
            self.counts.add(retries=1)

    def _client(self, seconds: float, max_retries: int) -> ObjectStore:
        key = seconds, max_retries
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = open_client(self._url, seconds, max_retries)
        return client

    def _failure(self, error: Exception) -> Failure:
        failure = classify(error)
        if failure.kind is Kind.NO_CREDENTIALS and self._has_answered:
            # There were credentials: the service that renews them does not answer just now.
            return Failure(Kind.UNAVAILABLE, "the service that gives out credentials is away")
        return failure
