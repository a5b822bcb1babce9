"""CRC-32, as zlib computes it, of what is in memory and of files.

ISA-L's is seven times faster than zlib's. Where it has no wheel, zlib's is used: the same numbers.
"""

from __future__ import annotations

import os

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32", "file_crc32"]

# A buffer that stays in a core's cache: what is copied into it is not fetched from memory again.
_BUFFER_BYTES = 1 << 19


def file_crc32(path: str | os.PathLike[str]) -> int:
    """CRC-32 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    crc, buffer = 0, memoryview(bytearray(_BUFFER_BYTES))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            crc = crc32(buffer[:size], crc)
    return crc
