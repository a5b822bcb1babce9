"""A folder of CIF files with one table of their texts: each row names its file by its id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clac_jax.datasets.readers import (
    ARRAY_COLUMNS,
    CRYSTAL_COLUMNS,
    ID_COLUMNS,
    UnreadableRow,
    read_table,
)
from clac_jax.datasets.record import DataError, shortened
from clac_jax.datasets.rows import row_name
from clac_jax.errors import in_words

TABLES = (".csv", ".jsonl", ".parquet")
_PROBLEM = "cif folder problem"  # a key that no table has a column for


def files(folder: Path) -> list[Path]:
    """Everything that a folder's data are made of, sorted: its table and its CIF files.

    Raises:
        DataError: it has no CIF file, or not exactly one table.
    """
    return [table(folder), *_cif_files(folder)]


def table(folder: Path) -> Path:
    """The table of a folder; errors as for `files`."""
    tables = [path for path in _files(folder) if path.suffix.lower() in TABLES]
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"{folder} must hold one table ({', '.join(TABLES)}) with the ids and texts of its CIF "
            f"files, and holds {found}. Add it, or move the others elsewhere."
        )
    if not _cif_files(folder):
        raise DataError(f"{folder} holds no .cif file. Give the folder that does.")
    return tables[0]


def rows(folder: Path, needs_text: bool = True) -> Iterator[Any]:
    """The rows of the table, each with the text of its file as `cif`, and the files without a row.

    What is wrong with a row is told by `check`.

    Raises:
        DataError: see `files` and `read_table`.
    """
    path = table(folder)
    by_name: dict[str, list[Path]] = {}
    for file in _cif_files(folder):
        by_name.setdefault(_composed(file.stem), []).append(file)
    unnamed = set(by_name)
    named_by: dict[str, str] = {}
    for row in read_table(path, needs_text, needs_crystal=False):
        if isinstance(row, UnreadableRow) or not isinstance(row, Mapping):
            unnamed.discard(_stem(row_name(row) or "", by_name))
            yield row
            continue
        written = row_name(row)
        name = _stem(written or "", by_name)
        unnamed.discard(name)
        first = named_by.setdefault(name, written or "")
        if written is None:
            columns = ", ".join(ID_COLUMNS)
            yield {**row, _PROBLEM: f"it has no id ({columns}) that names a CIF file"}
        elif name not in by_name:
            yield {**row, _PROBLEM: f"there is no {folder / shortened(written)}.cif"}
        elif len(by_name[name]) > 1:
            both = " and ".join(file.name for file in by_name[name])
            yield {**row, _PROBLEM: f"there are {both}; remove one"}
        elif first != written:  # the same id twice is found where ids are compared
            taken = by_name[name][0].name
            yield {**row, _PROBLEM: f"{taken} is that of the row {shortened(first)!r} already"}
        else:
            yield _with_cif(row, by_name[name][0])
    for name in sorted(unnamed):
        yield {"id": name, _PROBLEM: f"{by_name[name][0].name} has no row in {path.name}"}


def check(row: Any) -> None:
    """What `rows` found wrong.

    Raises:
        DataError: naming it.
    """
    if isinstance(row, Mapping) and _PROBLEM in row:
        raise DataError(row[_PROBLEM])


def _files(folder: Path) -> list[Path]:
    """Without hidden ones: macOS writes a "._NAME" beside each file on foreign disks."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()
    )


def _cif_files(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.suffix.lower() == ".cif"]


def _stem(name: str, known: Mapping[str, Any]) -> str:
    """The name of a file's stem that an id means: with or without its ending, or 12.0 for 12."""
    name = _composed(name)
    without_ending = re.sub(r"\.cif$", "", name, flags=re.IGNORECASE)
    # A column of integers with a gap is one of floats, and is written to a csv so.
    for candidate in (name, without_ending, re.sub(r"^(\d+)\.0+$", r"\1", without_ending)):
        if candidate in known:
            return candidate
    return name


def _composed(name: str) -> str:
    """The name with composed letters: macOS writes those of files as two characters."""
    return unicodedata.normalize("NFC", name)


def _with_cif(row: Mapping[str, Any], file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        return {**row, _PROBLEM: f"{file.name} cannot be read: {in_words(error)}"}
    others = {*CRYSTAL_COLUMNS, *ARRAY_COLUMNS}  # the file is the crystal, whatever is beside it
    return {name: value for name, value in row.items() if name not in others} | {"cif": text}
