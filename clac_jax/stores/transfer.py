"""Single requests to a bucket through obstore; its exceptions pass, to be classified."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.errors import WorkdirError
from clac_jax.files.paths import explain
from clac_jax.stores.version import Stored, Version

if TYPE_CHECKING:
    from obstore.store import ObjectStore


SMALL_BYTES = 1 << 20


class Content:
    """The bytes of a put: in memory, or of a file, which need not fit there.

    Attributes:
        size: their number.
    """

    def __init__(self, source: bytes | int):
        """From bytes, or the descriptor of an open file."""
        self._source = source
        self.size = os.fstat(source).st_size if isinstance(source, int) else len(source)

    @classmethod
    @contextlib.contextmanager
    def of(cls, source: bytes | Path) -> Iterator[Content]:
        """Opens bytes or a file; a small one is read, as it may change while it is sent.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(source, bytes):
            yield cls(source)
            return
        with source.open("rb") as file:
            is_small = os.fstat(file.fileno()).st_size <= SMALL_BYTES
            yield cls(file.read() if is_small else file.fileno())

    def buffer(self) -> bytes | mmap.mmap:
        """All bytes; those of a file are mapped, so the system may drop pages that were sent.

        A large file must not be cut short in the meantime: that would end the program by a signal.
        """
        if isinstance(self._source, bytes):
            return self._source
        try:
            return mmap.mmap(self._source, self.size, access=mmap.ACCESS_READ)
        except OSError:  # a file system that cannot map files
            return self.part(0, self.size)

    def part(self, start: int, length: int) -> bytes:
        """A copy of a part of the bytes.

        Raises:
            WorkdirError: the file cannot be read; an `OSError` would look like one of the store.
        """
        if isinstance(self._source, bytes):
            return self._source[start : start + length]
        try:
            return os.pread(self._source, length, start)
        except OSError as error:
            raise WorkdirError(f"Cannot read a file to upload: {explain(error)}") from error

    def parts(self, length: int, wait: Callable[[int], None]) -> Iterator[bytes]:
        """Copies of the parts in order; `wait` is called with the size of each before it."""
        for start in range(0, self.size, length):
            part = self.part(start, length)
            wait(len(part))
            yield part


class ConditionError(Exception):
    """The condition of a put does not hold, as seen before the upload."""


def library_errors() -> tuple[type[Exception], ...]:
    """The exceptions of obstore: some are its own, some are Python's."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def read(client: ObjectStore, key: str, options: Any = None) -> Stored:
    """Reads an object, or the range in `options`, in one request.

    Raises:
        ConnectionError: there are fewer bytes than the store has announced.
    """
    answer = client.get(key, options=options)
    data = bytes(answer.bytes())
    first, last = answer.range
    if len(data) != last - first:
        raise ConnectionError("the answer is incomplete")
    return Stored(data, Version.of(answer.meta))


def look(client: ObjectStore, key: str) -> tuple[int, Version]:
    """Size and version of an object."""
    meta = client.head(key)
    return meta["size"], Version.of(meta)


def write(client: ObjectStore, key: str, content: Content, mode: Any = None) -> Version:
    """Writes an object in one request, under a condition unless `mode` is None."""
    answer = client.put(key, content.buffer(), mode=mode, use_multipart=False)
    return Version.of(answer)


def write_parts(
    client: ObjectStore, key: str, parts: Iterator[bytes], sizes: tuple[int, int]
) -> Version:
    """Writes an object in parts; it appears when all of them have arrived.

    Args:
        client: client of the bucket.
        key: name of the object in the bucket.
        parts: its bytes, in order.
        sizes: number of bytes per request, and the number of requests in transit.
    """
    answer = client.put(key, parts, chunk_size=sizes[0], max_concurrency=sizes[1])
    return Version.of(answer)


def copy(client: ObjectStore, source: str, target: str) -> None:
    """Copies an object within its bucket."""
    client.copy(source, target, overwrite=True)
