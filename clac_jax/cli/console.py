"""Standard output and error that cannot end a run: a closed pipe, a full disk, an ASCII terminal.

The output is a convenience; the record of a run is its workdir. So a closed terminal, or
`main.py | head -1`, must not stop a training of several days.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class _LastingOutput(io.RawIOBase):
    """A file descriptor that silently stops writing at the first failure.

    Attributes:
        failure: the first error, or None.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        size, done = len(view), 0
        while self.failure is None and done < size:
            try:
                done += os.write(self._descriptor, view[done:])
            except OSError as error:
                self.failure = error
        return size

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def protect_output() -> None:
    """Replaces standard output and error by streams on which writing never fails.

    Characters that the encoding lacks are written as escapes. A closed descriptor (`>&-`) is opened
    on /dev/null: otherwise the next file that the run opens would get its number, and with it
    everything that libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = _protected(sys.stdout, 1)
    sys.stderr = _protected(sys.stderr, 2)


def output_failure() -> OSError | None:
    """The error for which standard output is incomplete, or None; flushes it first."""
    sys.stdout.flush()
    raw = getattr(sys.stdout, "buffer", None)
    return raw.failure if isinstance(raw, _LastingOutput) else None


def _protected(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        _LastingOutput(descriptor),  # type: ignore[type-var]  # unbuffered, as a raw file is
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
