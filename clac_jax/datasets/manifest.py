"""What a prepared data set should consist of, written at its end and compared at every start."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clac_jax.datasets.record import DataError
from clac_jax.errors import in_words
from clac_jax.files.json import read_text

FILE = "prepared.txt"
READ_WHOLE_BYTES = 64 << 20
"""Up to this size the files of a split are read whole at the start: some 0.1 s."""

END_BYTES = 1 << 16
"""Of larger splits this much at the start and at the end of each file is read."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What belongs to a prepared data set.

    Attributes:
        files: path within its folder -> size in bytes, CRC-32 of the whole, CRC-32 of both ends.
        notices: lines for the user about rows that were left out.
    """

    files: dict[str, tuple[int, int, int]]
    notices: list[str] = field(default_factory=list)


def damaged(folder: Path, what: str) -> DataError:
    """The one error for a prepared data set that is not what was written."""
    return DataError(
        f"The prepared data set in {folder} is damaged: {what}. Remove that folder; the next start "
        "builds it again."
    )


def write(folder: Path, notices: list[str]) -> None:
    """Lists everything that lies in a folder now."""
    files = {
        str(path.relative_to(folder)): (path.stat().st_size, _crc(path), _crc_of_ends(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = json.dumps({"files": files, "notices": notices}, indent=1) + "\n"
    check_sum = f"{zlib.crc32(content.encode()):08x}\n"
    (folder / FILE).write_text(content + check_sum, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """What a folder should hold.

    Raises:
        DataError: the list is missing or damaged.
    """
    try:
        written = read_text(folder / FILE).encode()
        content, check_sum = written[:-9], written[-9:-1]  # the last line has eight digits
        if f"{zlib.crc32(content):08x}".encode() != check_sum:
            raise ValueError("it is not what was written")
        values: Any = json.loads(content)
        files = {str(path): tuple(map(int, facts)) for path, facts in values["files"].items()}
        notices = [str(line) for line in values["notices"]]
        if not files or any(len(facts) != 3 for facts in files.values()):
            raise ValueError("it does not list the files")
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{FILE}: {in_words(error)}") from error
    return Manifest(files, notices)  # type: ignore[arg-type]  # of three each, see above


def check(folder: Path, split: str, splits: tuple[str, ...]) -> None:
    """Compares what one split is read from with the list.

    Everything is read where the records of the split are small; of larger ones the sizes and both
    ends of each file, so that the start stays quick: damage elsewhere is met when a record is read.

    Args:
        folder: of the prepared data set.
        split: the one that is opened.
        splits: all there are.

    Raises:
        DataError: a file is missing or is not what was written.
    """
    others = tuple(f"-{name}." for name in splits if name != split)
    files = {
        path: facts
        for path, facts in read(folder).files.items()
        if not any(other in Path(path).name for other in others)
    }
    records = {path: facts for path, facts in files.items() if f"-{split}." in Path(path).name}
    is_small = sum(size for size, _, _ in records.values()) <= READ_WHOLE_BYTES
    if not records:
        raise damaged(folder, f"{FILE} lists no file of the {split} split")
    for name, (size, crc, crc_of_ends) in files.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                raise damaged(folder, f"{name} has {found:,} bytes and was written with {size:,}")
            whole = is_small if name in records else size <= READ_WHOLE_BYTES
            if (_crc(path) != crc) if whole else (_crc_of_ends(path) != crc_of_ends):
                raise damaged(folder, f"{name} is not what was written")
        except OSError as error:
            raise damaged(folder, f"{name}: {in_words(error)}") from error


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _crc_of_ends(path: Path) -> int:
    with open(path, "rb") as file:
        value = zlib.crc32(file.read(END_BYTES))
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return zlib.crc32(file.read(END_BYTES), value)
