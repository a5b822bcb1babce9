"""Single requests to a bucket through obstore; its exceptions pass, to be classified."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.stores.version import Stored, Version

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class Content:
    """The bytes of a put: in memory, or mapped from a file, so that they need not fit there."""

    def __init__(self, data: bytes | mmap.mmap):
        self.data = data
        self.size = len(data)

    @classmethod
    @contextlib.contextmanager
    def of(cls, source: bytes | Path) -> Iterator[Content]:
        """Opens bytes or a file.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(source, bytes):
            yield cls(source)
            return
        with source.open("rb") as file:
            size = file.seek(0, 2)
            if not size:  # nothing to map
                yield cls(b"")
                return
            # Not closed here: obstore may still hold it for a moment after an error.
            yield cls(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))

    def parts(self, length: int, wait: Callable[[int], None]) -> Iterator[bytes]:
        """Copies of the parts in order; `wait` is called with the size of each before it."""
        for start in range(0, self.size, length):
            part = self.part(start, length)
            wait(len(part))
            yield part

    def part(self, start: int, length: int) -> bytes:
        """A copy of a part of the bytes."""
        return self.data[start : start + length]


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
    # A file that was cut short by others while it is mapped would end the program by a signal;
    # checkpoints and their pinned copies are never written twice.
    answer = client.put(key, content.data, mode=mode, use_multipart=False)
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
