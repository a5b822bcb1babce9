"""Whether files on this machine are intact."""

from __future__ import annotations

from pathlib import Path

from clac_jax.files.crc import file_crc32


def is_intact(path: Path, facts: tuple[int, int]) -> bool:
    """Whether a local file can be read, and has this size and CRC-32."""
    size, expected = facts
    try:
        return path.stat().st_size == size and file_crc32(path) == expected
    except OSError:
        return False
