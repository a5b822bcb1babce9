"""Objects of a bucket: reading, writing, conditional writing; failed requests are repeated."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clac_jax.files.atomic import replacing
from clac_jax.stores import transfer
from clac_jax.stores.client import open_client
from clac_jax.stores.errors import ConflictError, NotFoundError
from clac_jax.stores.failures import Failure, Kind, classify
from clac_jax.stores.messages import error_of
from clac_jax.stores.retries import Bandwidth, Patience
from clac_jax.stores.url import BucketUrl, parse_url
from clac_jax.stores.version import Listed, Stored, Version

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Counts", "Listed", "Store", "StoreOptions", "Stored", "Version", "open_store"]

T = TypeVar("T")

SINGLE_PUT_BYTES = 512 << 20
"""Larger files are sent in parts, which no condition can be attached to: see `Store.put`."""

CHANGES = 5
"""How often a download starts again because the object was replaced meanwhile."""


@dataclass(frozen=True)
class StoreOptions:
    """How a store is used.

    Attributes:
        max_bytes_per_second: limit over all requests of a store and its children; 0 for none.
        concurrency: parts of one file that are in transit at a time.
        part_bytes: size of a part; `concurrency` of them are in memory for each large file.
        patience_seconds: how long a call repeats requests that fail before it raises.
        request_seconds: limit for one request of at most `part_bytes`.
    """

    max_bytes_per_second: float = 0
    concurrency: int = 4
    part_bytes: int = 8 << 20
    patience_seconds: float = 60
    request_seconds: float = 60


@dataclass
class Counts:
    """What a store and its children have done since it was opened."""

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


class _Bucket:
    """What a store shares with its children: clients, limit of bytes, counters."""

    def __init__(self, url: BucketUrl, options: StoreOptions):
        self.url, self.options = url, options
        self.client = open_client(url, options.request_seconds)
        self.bandwidth = Bandwidth(options.max_bytes_per_second)
        self.counts = Counts()
        self.has_answered = False

    def client_for(self, size: int) -> ObjectStore:
        """A client whose requests may take as long as `size` bytes need at 2 MB per second."""
        seconds = self.options.request_seconds + size / 2e6
        return self.client if size <= self.options.part_bytes else open_client(self.url, seconds)

    def client_for_parts(self) -> ObjectStore:
        """A client that repeats each failed part itself."""
        options = self.options
        return open_client(self.url, options.request_seconds, options.patience_seconds)


class Store:
    """A folder of a bucket. Names are relative to it, with "/" between their parts.

    Every method may be used from several threads. Every method raises `MissingBucketError`,
    `CredentialsError`, `UnavailableError`, or else `StoreError`; other errors are named below.

    Attributes:
        url: the URL of the folder.
        counts: requests, retries and bytes so far.
    """

    def __init__(self, url: BucketUrl, bucket: _Bucket):
        self._url, self._bucket = url, bucket
        self.url = str(url)
        self.counts = bucket.counts

    def child(self, prefix: str) -> Store:
        """The store of a folder in this one; they share connections, limits and counters."""
        return Store(self._url.child(prefix), self._bucket)

    def url_of(self, name: str) -> str:
        """The URL of an object, as it appears in messages."""
        return f"{self.url}/{name}" if name else self.url

    def get(self, name: str, start: int | None = None, end: int | None = None) -> Stored:
        """Reads an object, or its bytes from `start` to before `end`, into memory.

        Raises:
            NotFoundError: there is no such object.
        """

        def read() -> Stored:
            options: Any = None
            if end is not None:
                options = {"range": (start or 0, end)}
            elif start:
                options = {"range": {"offset": start}}
            stored = transfer.read(self._bucket.client, self._url.key(name), options)
            self._bucket.bandwidth.take(len(stored.data))
            self.counts.add(bytes_down=len(stored.data))
            return stored

        return self._repeat(read, "read", name)

    def head(self, name: str) -> Listed | None:
        """Size and version of an object; None if it does not exist."""

        def look() -> Listed | None:
            key = self._url.key(name)
            try:
                size, version = transfer.look(self._bucket.client, key)
            except FileNotFoundError:
                # The answer has no text, so it does not say whether it is the bucket that is
                # missing. The answer to a read does.
                transfer.read(self._bucket.client, key, {"range": (0, 1)})
                raise ConnectionError("written between the two requests") from None
            return Listed(name, size, version)

        try:
            return self._repeat(look, "read", name)
        except NotFoundError:
            return None

    def download(self, name: str, path: Path) -> int:
        """Reads an object into a file, which appears under its name only when it is complete.

        A large object is read in parts, all of one version of it. Returns the CRC-32 of its bytes.

        Raises:
            NotFoundError: there is no such object.
            WorkdirError: the file cannot be written.
        """
        for _ in range(CHANGES):
            found = self.head(name)
            if found is None:
                raise NotFoundError(f"{self.url_of(name)} does not exist. Check the name.")
            try:
                return self._download(found, path)
            except ConflictError as error:
                changed = error
        raise changed

    def put(
        self,
        name: str,
        source: bytes | Path,
        *,
        if_absent: bool = False,
        if_version: Version | None = None,
    ) -> Version:
        """Writes an object; readers see the old or the new one, never a mixture.

        A conditional put repeats requests like any other. If an answer was lost and the next one
        says that the condition no longer holds, the object is read back: if it has these very
        bytes, the put has succeeded. So the bytes of a conditional put must be the caller's own,
        for example by a random number in them, unless all writers of these bytes are equivalent.

        Args:
            name: name of the object.
            source: its bytes, or a file that has them; a file is not read into memory at once.
            if_absent: only if there is no object of this name.
            if_version: only if the object still is of this version.

        Returns:
            The version that was written.

        Raises:
            ConflictError: the condition does not hold. The object is not changed.
            FileNotFoundError: there is no file `source`.
        """
        with transfer.Content.of(source) as content:
            if if_absent or if_version is not None:
                mode = "create" if if_version is None else if_version.as_condition()
                return self._put_if(name, content, mode)
            return self._repeat(lambda: self._write(name, content, None), "write", name)

    def delete(self, name: str) -> None:
        """Deletes an object; it is no error if there is none."""
        try:
            self._repeat(lambda: self._bucket.client.delete(self._url.key(name)), "delete", name)
        except NotFoundError:
            return

    def list(self, prefix: str = "") -> list[Listed]:
        """The objects in a folder and its folders, by their names relative to this store.

        Args:
            prefix: a folder of this store; all of the store if empty.

        Listings of some stores and proxies are late: what must be true is decided by `get`.
        """
        folder = self._url.key(prefix.strip("/"))
        skip = len(self._url.prefix) + 1 if self._url.prefix else 0

        def read() -> list[Listed]:
            pages: Iterator[Any] = iter(self._bucket.client.list(folder or None))
            found = [item for page in pages for item in page]
            return [Listed(item["path"][skip:], item["size"], Version.of(item)) for item in found]

        return sorted(self._repeat(read, "list", prefix), key=lambda item: item.name)

    def _download(self, found: Listed, path: Path) -> int:
        checksum = 0
        with replacing(path) as temporary, temporary.open("wb") as file:
            for part in self._parts(found):
                checksum = zlib.crc32(part, checksum)
                file.write(part)
        return checksum

    def _parts(self, found: Listed) -> Iterator[bytes]:
        """The bytes of an object in order, with a few parts in transit at a time."""
        options = self._bucket.options
        starts = range(0, found.size, options.part_bytes)

        def read(start: int) -> bytes:
            part = self.get(found.name, start, min(start + options.part_bytes, found.size))
            if part.version != found.version:
                raise ConflictError(
                    f"{self.url_of(found.name)} was written while it was read. Try again when its "
                    "writer has finished."
                )
            return part.data

        if len(starts) < 2:
            yield from map(read, starts)
            return
        with ThreadPoolExecutor(options.concurrency) as pool:
            in_transit: deque[Future[bytes]] = deque()
            try:
                for start in starts:
                    in_transit.append(pool.submit(read, start))
                    if len(in_transit) == options.concurrency:
                        yield in_transit.popleft().result()
                while in_transit:
                    yield in_transit.popleft().result()
            finally:
                for part in in_transit:
                    part.cancel()

    def _write(self, name: str, content: transfer.Content, mode: Any) -> Version:
        client = self._bucket.client_for(content.size)
        self._bucket.bandwidth.take(content.size)
        version = transfer.write(client, self._url.key(name), content, mode)
        self.counts.add(bytes_up=content.size)
        return version

    def _put_if(self, name: str, content: transfer.Content, mode: Any) -> Version:
        def write() -> Version:
            try:
                return self._write(name, content, mode)
            except Exception as error:
                failure = classify(error)
                if failure.kind is not Kind.CONFLICT:
                    raise
            # Perhaps by an earlier try of this very put, whose answer was lost.
            if version := self._version_if_equal(name, content):
                return version
            raise ConflictError(
                f"{self.url_of(name)} has been written by somebody else in the meantime. Read it "
                "again before writing."
            )

        return self._repeat(write, "write", name)

    def _version_if_equal(self, name: str, content: transfer.Content) -> Version | None:
        """The version of an object if it has these bytes."""
        found = self.head(name)
        if found is None or found.size != content.size:
            return None
        start = 0
        try:
            for part in self._parts(found):
                if part != content.part(start, len(part)):
                    return None
                start += len(part)
        except (ConflictError, NotFoundError):  # replaced or deleted while it was read
            return None
        return found.version

    def _repeat(self, request: Callable[[], T], action: str, name: str) -> T:
        """Runs a request, again and again while its failures are transient."""
        patience = Patience(self._bucket.options.patience_seconds)
        while True:
            self.counts.add(requests=1)
            try:
                result = request()
                self._bucket.has_answered = True
                return result
            except transfer.library_errors() as error:
                failure = self._failure(error)
            if not patience.allows_another_try(failure):
                raise error_of(failure, action, self.url_of(name), patience.waited) from None
            self.counts.add(retries=1)

    def _failure(self, error: Exception) -> Failure:
        failure = classify(error)
        if failure.kind is Kind.NO_CREDENTIALS and self._bucket.has_answered:
            # There were credentials: the service that renews them does not answer just now.
            return Failure(Kind.UNAVAILABLE, "the service that gives out credentials is away")
        return failure


def open_store(url: str, options: StoreOptions = StoreOptions()) -> Store:
    """Opens a folder of a bucket; nothing is sent before the first call of a method.

    Args:
        url: gs://BUCKET/FOLDER, s3://BUCKET/FOLDER or az://CONTAINER/FOLDER. Credentials and
            endpoints are taken from the environment, as each provider's own tools do.
        options: limits and patience.

    Raises:
        UrlError: the URL cannot be used.
        StoreError: obstore is not installed, or a setting in the environment is not accepted.
    """
    parsed = parse_url(url)
    return Store(parsed, _Bucket(parsed, options))
