"""Whether files have the same content, or have been written to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clac_jax.errors import error_reason


def content_of(files: Iterator[Path] | Sequence[Path], folder: Path) -> str:
    """SHA-256 of the content and names of files, which are relative to a folder."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with open(file, "rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError as error:
            content = f"unreadable: {error_reason(error)}"  # refused, with this reason
        name = os.fsencode(os.path.relpath(file, folder))
        digest.update(name + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def state_of(files: Iterator[Path] | Sequence[Path]) -> str:
    """SHA-256 of the sizes, times and inodes of files, which is quick to get."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
            facts = stat.st_size, stat.st_mtime_ns, stat.st_ino
        except OSError as error:
            facts = (error.errno or 0, 0, 0)
        digest.update(f"{facts}\n".encode())
    return digest.hexdigest()
