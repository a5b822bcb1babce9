"""Objects of a bucket: reading, writing, conditional writing; failed requests are repeated."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from clac_jax.files.atomic import replacing
from clac_jax.files.crc import crc32
from clac_jax.stores import transfer
from clac_jax.stores.connection import USUAL, Connection, Counts, StoreOptions
from clac_jax.stores.errors import (
    ConflictError,
    CredentialsError,
    MissingBucketError,
    NotFoundError,
    StoreError,
    UnavailableError,
)
from clac_jax.stores.failures import Kind, classify
from clac_jax.stores.url import BucketUrl, parse_url
from clac_jax.stores.version import Listed, Stored, Version

__all__ = ["Counts", "Listed", "Store", "StoreOptions", "Stored", "Version", "open_store"]

T = TypeVar("T")

SINGLE_PUT_BYTES = 512 << 20
"""Larger files are sent in parts, which no condition can be attached to: see `Store.put`."""

COPY_BYTES = 5 << 30
"""The largest object that S3 copies in one request."""

CHANGES = 5
"""Most downloads of one object that is replaced while it is read, before that is an error."""


class Store:
    """A folder of a bucket. Names are relative to it, with "/" between their parts.

    Every method may be used from several threads. Every method raises `MissingBucketError`,
    `CredentialsError`, `UnavailableError`, or else `StoreError`; other errors are named below.

    Attributes:
        url: the URL of the folder.
        counts: requests, retries and bytes so far.
    """

    def __init__(self, url: BucketUrl, connection: Connection):
        self._url, self._connection = url, connection
        self.url = str(url)
        self.counts = connection.counts

    def child(self, prefix: str) -> Store:
        """The store of a folder in this one; they share connections, limits and counters."""
        return Store(self._url.child(prefix), self._connection)

    def parent(self) -> tuple[Store, str]:
        """The store that this folder is in, and its name there; an empty name for a bucket."""
        folder, _, name = self._url.prefix.rpartition("/")
        url = BucketUrl(self._url.scheme, self._url.bucket, folder)
        return Store(url, self._connection), name

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
            stored = transfer.read(self._connection.client(), self._url.key(name), options)
            self._connection.bandwidth.take(len(stored.data))
            self.counts.add(bytes_down=len(stored.data))
            return stored

        return self._repeat(read, "read", name)

    def head(self, name: str) -> Listed | None:
        """Size and version of an object; None if it does not exist."""

        def look() -> Listed | None:
            key = self._url.key(name)
            try:
                size, version = transfer.look(self._connection.client(), key)
            except FileNotFoundError:
                # The answer has no text, so it does not say whether it is the bucket that is
                # missing. The answer to a read does.
                transfer.read(self._connection.client(), key, {"range": (0, 1)})
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

        A file of more than `SINGLE_PUT_BYTES` is sent in parts. Stores attach no condition to such
        an upload, so it is checked only before: give large files names that no one else uses.

        Args:
            name: name of the object.
            source: its bytes, or a file that has them; a large file is read in parts.
            if_absent: only if there is no object of this name.
            if_version: only if the object still is of this version.

        Returns:
            The version that was written.

        Raises:
            ConflictError: the condition does not hold. The object is not changed.
            OSError: the file `source` cannot be opened.
            WorkdirError: it cannot be read.
        """
        with transfer.Content.of(source) as content:
            if if_absent or if_version is not None:
                mode = "create" if if_version is None else if_version.as_condition()
                return self._put_if(name, content, mode)
            return self._repeat(lambda: self._write(name, content, None), "write", name)

    def copy(self, source: str, target: str, size: int) -> bool:
        """Copies an object within the store, without a transfer; an existing target is replaced.

        Args:
            source: name of the object.
            target: name of the copy.
            size: size of the object, bytes.

        Returns:
            False if it cannot be copied: there is no such object, it is too large for one request,
            or the store cannot copy. The target must then be put.
        """
        if size > COPY_BYTES:
            return False

        def copy() -> None:
            transfer.copy(self._connection.client(size), *map(self._url.key, (source, target)))

        try:
            self._repeat(copy, "copy", source)
        except (UnavailableError, MissingBucketError, CredentialsError):
            raise
        except StoreError:
            return False
        copied = self.head(target)
        return copied is not None and copied.size == size

    def delete(self, name: str) -> None:
        """Deletes an object; it is no error if there is none."""
        try:
            key = self._url.key(name)
            self._repeat(lambda: self._connection.client().delete(key), "delete", name)
        except NotFoundError:
            return

    def list(self, prefix: str = "") -> list[Listed]:
        """The objects in a folder and its folders, by their names relative to this store.

        Args:
            prefix: a folder of this store; all of the store if empty.

        Listings of some stores and proxies are late: what must be true is decided by `get`. On GCS
        they contain no generations, so their versions compare only with those of other listings.
        """
        folder = self._url.key(prefix.strip("/"))
        skip = len(self._url.prefix) + 1 if self._url.prefix else 0

        def read() -> list[Listed]:
            pages: Iterator[Any] = iter(self._connection.client().list(folder or None))
            found = [item for page in pages for item in page]
            return [Listed(item["path"][skip:], item["size"], Version.of(item)) for item in found]

        found = sorted(self._repeat(read, "list", prefix), key=lambda item: item.name)
        # Consoles create empty objects as folders.
        return [
            item
            for item, following in itertools.zip_longest(found, found[1:])
            if item.name
            and not (item.size == 0 and following and following.name.startswith(f"{item.name}/"))
        ]

    def _download(self, found: Listed, path: Path) -> int:
        checksum = 0
        with replacing(path) as temporary, temporary.open("wb") as file:
            for part in self._parts(found):
                checksum = crc32(part, checksum)
                file.write(part)
        return checksum

    def _parts(self, found: Listed) -> Iterator[bytes]:
        """The bytes of an object in order, with a few parts in transit at a time."""
        options = self._connection.options
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
        key, options = self._url.key(name), self._connection.options
        is_small = content.size <= options.part_bytes
        if is_small or (mode is not None and content.size <= SINGLE_PUT_BYTES):
            self._connection.bandwidth.take(content.size)
            client = self._connection.client(content.size)
            version = transfer.write(client, key, content, mode)
        else:
            if mode is not None:
                self._check_condition(name, mode)
            parts = content.parts(options.part_bytes, self._connection.bandwidth.take)
            client = self._connection.client_for_parts()
            sizes = options.part_bytes, options.concurrency
            version = transfer.write_parts(client, key, parts, sizes)
            if client.head(key)["size"] != content.size:
                raise ConnectionError("the object is incomplete")
        self.counts.add(bytes_up=content.size)
        return version

    def _check_condition(self, name: str, mode: Any) -> None:
        """Raises the conflict of an upload in parts, which the store itself cannot detect."""
        found = self.head(name)
        present = "create" if found is None else found.version.as_condition()
        if present != mode:
            raise transfer.ConditionError

    def _put_if(self, name: str, content: transfer.Content, mode: Any) -> Version:
        def write() -> Version:
            try:
                return self._write(name, content, mode)
            except transfer.ConditionError:
                pass
            except transfer.library_errors() as error:
                if classify(error).kind is not Kind.CONFLICT:
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
        return self._connection.repeat(request, action, self.url_of(name))


def open_store(url: str, options: StoreOptions = USUAL) -> Store:
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
    return Store(parsed, Connection(parsed, options))
