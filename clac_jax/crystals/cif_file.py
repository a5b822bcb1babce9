"""Files of CIFs: their names, and their texts, which may be compressed or in UTF-16."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clac_jax.crystals.numbers import CrystalError
from clac_jax.errors import one_line, warn

MAX_BYTES = 1 << 26
"""Limit of a compressed CIF's text; that of a large cell has about 100 kB."""

_ENDING = re.compile(r"\.m?cif(\.gz|\.bz2|\.xz)?$", re.IGNORECASE)
_OPENERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_READ_BYTES = 1 << 18
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_cif(name: str) -> bool:
    """Whether the name of a file is that of a CIF: `.cif`, `.mcif`, or one of them compressed."""
    return _ENDING.search(name) is not None


def without_ending(name: str) -> str:
    """The name of a file without the ending of a CIF, if it has one."""
    return _ENDING.sub("", name)


def without_twins(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Leaves out the compressed and magnetic twins of plain `.cif` files, such as `a.cif.gz`.

    Args:
        names: names of files, or paths within a folder.

    Returns:
        (the others, those left out), each in the order given. Twins without a plain file are kept.
    """
    plain = {without_ending(name) for name in names if _is_plain(name)}
    left_out = [
        name
        for name in names
        if is_cif(name) and not _is_plain(name) and without_ending(name) in plain
    ]
    gone = {*left_out}
    return [name for name in names if name not in gone], left_out


def warn_of_twins(folder: Path, left_out: Sequence[str]) -> None:
    """Warns of the files that `without_twins` left out, if any."""
    if left_out:
        more = f" and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
        warn(
            f"{', '.join(left_out[:3])}{more} in {folder}: left out, since there is a .cif of the "
            "same name. Rename a file if it is a different crystal."
        )


def twins(names: Iterable[str]) -> dict[str, list[str]]:
    """Name without the ending -> the CIFs with that name, where there are several."""
    found: dict[str, list[str]] = {}
    for name in filter(is_cif, names):
        found.setdefault(without_ending(name), []).append(name)
    return {stem: same for stem, same in found.items() if len(same) > 1}


def _is_plain(name: str) -> bool:
    return name.lower().endswith(".cif")


def read_text(file: Path) -> str:
    """The text of a CIF: decompressed, and decoded from UTF-8, or UTF-16 with a byte order mark.

    Raises:
        CrystalError: it cannot be decompressed, is too large, or is in a different encoding.
        OSError: the file cannot be read.
    """
    content = file.read_bytes()
    if (suffix := file.suffix.lower()) in _OPENERS:
        content = _decompressed(content, suffix)
    if content.startswith(_WIDE):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:4]:
        raise CrystalError("It is not in UTF-8, but in UTF-16 or not a text. Save it as UTF-8.")
    return content.decode("utf-8-sig", errors="replace")


def _decompressed(content: bytes, suffix: str) -> bytes:
    text = bytearray()
    try:
        with _OPENERS[suffix](io.BytesIO(content)) as file:
            while len(text) <= MAX_BYTES and (piece := file.read(_READ_BYTES)):
                text += piece
    except (OSError, EOFError, MemoryError, zlib.error, lzma.LZMAError) as error:
        raise CrystalError(
            f"It cannot be decompressed ({one_line(error)}). Check that it is complete."
        ) from error
    if len(text) > MAX_BYTES:
        raise CrystalError(
            f"It is decompressed to more than {MAX_BYTES >> 20} MiB. If it is the CIF of a "
            "crystal, decompress it yourself."
        )
    return bytes(text)
