"""The manifest of a prepared data set: sizes and checksums, verified at every start."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clac_jax.datasets.record import DataError
from clac_jax.errors import error_reason
from clac_jax.files.crc import crc32, file_crc32
from clac_jax.files.json import read_text

FILE = "prepared.txt"
FULL_CHECK_BYTES = 64 << 20
"""The files of a split are read in full at the start up to this size, in about 0.1 s."""

END_BYTES = 1 << 16
"""In larger splits, the number of bytes that are read at both ends of each file."""


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        files: relative path -> size in bytes, CRC-32 of the file, CRC-32 of its two ends.
        notices: lines for the user about rows that were skipped.
    """

    files: dict[str, tuple[int, int, int]]
    notices: list[str] = field(default_factory=list)


def damaged(folder: Path, what: str) -> DataError:
    """The error for a prepared data set that differs from what was written."""
    return DataError(
        f"The prepared data set in {folder} is damaged: {what}. Delete that folder; the next run "
        "rebuilds it."
    )


def write(folder: Path, notices: list[str]) -> None:
    """Writes the manifest of all files that are in the folder."""
    files = {
        str(path.relative_to(folder)): (path.stat().st_size, file_crc32(path), _crc_of_ends(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = json.dumps({"files": files, "notices": notices}, indent=1) + "\n"
    checksum = f"{crc32(content.encode()):08x}\n"
    (folder / FILE).write_text(content + checksum, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Loads the manifest of a folder.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    try:
        written = read_text(folder / FILE).encode()
        content, checksum = written[:-9], written[-9:-1]  # the last line has eight digits
        if f"{crc32(content):08x}".encode() != checksum:
            raise ValueError("its checksum does not match")
        values: Any = json.loads(content)
        files = {str(path): tuple(map(int, facts)) for path, facts in values["files"].items()}
        notices = [str(line) for line in values["notices"]]
        if not files or any(len(facts) != 3 for facts in files.values()):
            raise ValueError("it does not list any files")
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{FILE}: {error_reason(error)}") from error
    return Manifest(files, notices)  # type: ignore[arg-type]  # of three each, see above


def check(folder: Path, split: str, splits: tuple[str, ...]) -> None:
    """Verifies the files of one split.

    Small splits are read in full. For larger ones only the size and both ends of each file are
    checked, which keeps the start fast; other damage is detected when a record is read.

    Args:
        folder: folder of the prepared data set.
        split: the split to open.
        splits: all splits of the data set.

    Raises:
        DataError: a file is missing or differs from what was written.
    """
    others = tuple(f"-{name}." for name in splits if name != split)
    files = {
        path: facts
        for path, facts in read(folder).files.items()
        if not any(other in Path(path).name for other in others)
    }
    records = {path: facts for path, facts in files.items() if f"-{split}." in Path(path).name}
    is_small = sum(size for size, _, _ in records.values()) <= FULL_CHECK_BYTES
    if not records:
        raise damaged(folder, f"{FILE} lists no file of the {split} split")
    for name, (size, crc, crc_of_ends) in files.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                raise damaged(folder, f"{name} has {found:,} bytes instead of {size:,}")
            in_full = is_small if name in records else size <= FULL_CHECK_BYTES
            if (file_crc32(path) != crc) if in_full else (_crc_of_ends(path) != crc_of_ends):
                raise damaged(folder, f"the checksum of {name} does not match")
        except OSError as error:
            raise damaged(folder, f"{name}: {error_reason(error)}") from error


def _crc_of_ends(path: Path) -> int:
    with open(path, "rb") as file:
        value = crc32(file.read(END_BYTES))
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return crc32(file.read(END_BYTES), value)
