"""Checksums of local files."""

from __future__ import annotations

import zlib
from pathlib import Path

_CHUNK = 1 << 24


def file_crc32(path: Path) -> int:
    """CRC-32 of a file, which need not fit into memory.

    Raises:
        OSError: it cannot be read.
    """
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def is_intact(path: Path, facts: tuple[int, int]) -> bool:
    """Whether a local file can be read, and has this size and CRC-32."""
    size, expected = facts
    try:
        return path.stat().st_size == size and file_crc32(path) == expected
    except OSError:
        return False
