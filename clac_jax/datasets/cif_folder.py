"""A folder of CIF files and a table of their texts, whose ids are the names of the files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clac_jax.crystals import cif_file
from clac_jax.crystals.numbers import CrystalError
from clac_jax.datasets.columns import (
    ARRAY_COLUMNS,
    CRYSTAL_COLUMNS,
    ID_COLUMNS,
    UnreadableRow,
)
from clac_jax.datasets.readers import read_table
from clac_jax.datasets.record import DataError, shortened
from clac_jax.datasets.rows import row_name
from clac_jax.errors import error_reason

TABLES = (".csv", ".jsonl", ".parquet")
_PROBLEM = "cif folder problem"  # a key that does not occur as a column


def files(folder: Path) -> list[Path]:
    """The table and the sorted CIF files of a folder.

    Raises:
        DataError: the folder has no CIF file, or not exactly one table.
    """
    return [table(folder), *_cif_files(folder)[0]]


def table(folder: Path) -> Path:
    """The path of the table in a folder; raises the errors of `files`."""
    tables = [path for path in _files(folder) if path.suffix.lower() in TABLES]
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"{folder} must contain one table ({', '.join(TABLES)}) with the ids and texts of its "
            f"CIF files, but contains {found}. Keep exactly one."
        )
    if not _cif_files(folder)[0]:
        raise DataError(f"{folder} contains no .cif files. Set dataset.path to a folder that does.")
    return tables[0]


def rows(folder: Path, needs_text: bool = True) -> Iterator[Any]:
    """Reads the table, with the content of each row's CIF file as the column `cif`.

    Also yields a row for each CIF file that no row of the table names. Problems are only marked in
    the rows; `check` raises them. Twins of a plain `.cif`, such as `a.cif.gz`, are left out; one
    warning names them.

    Raises:
        DataError: see `files` and `read_table`.
    """
    path = table(folder)
    cifs, left_out = _cif_files(folder)
    cif_file.warn_of_twins(folder, left_out)
    by_name: dict[str, list[Path]] = {}
    for file in cifs:
        by_name.setdefault(_normalized(cif_file.without_ending(file.name)), []).append(file)
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
            ending = "" if cif_file.is_cif(written) else ".cif"
            yield {**row, _PROBLEM: f"there is no {folder / shortened(written)}{ending}"}
        elif len(by_name[name]) > 1:
            both = " and ".join(file.name for file in by_name[name])
            yield {**row, _PROBLEM: f"both {both} match its id; remove one"}
        elif first != written:  # repeated ids are reported with those of other tables
            taken = by_name[name][0].name
            yield {**row, _PROBLEM: f"{taken} already belongs to the row {shortened(first)!r}"}
        else:
            yield _with_cif(row, by_name[name][0])
    for name in sorted(unnamed):
        yield {"id": name, _PROBLEM: f"{by_name[name][0].name} has no row in {path.name}"}


def check(row: Any) -> None:
    """Raises the problem that `rows` marked in a row, if any.

    Raises:
        DataError: describes the problem.
    """
    if isinstance(row, Mapping) and _PROBLEM in row:
        raise DataError(row[_PROBLEM])


def _files(folder: Path) -> list[Path]:
    """The files of a folder without hidden ones, such as the "._NAME" files of macOS."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()
    )


def _cif_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The CIF files of a folder; and the names of the twins of plain ones, which are left out."""
    names = [path.name for path in _files(folder) if cif_file.is_cif(path.name)]
    kept, left_out = cif_file.without_twins(names)
    return [folder / name for name in kept], left_out


def _stem(name: str, known: Mapping[str, Any]) -> str:
    """The stem of a file that an id refers to: with or without ./ and .cif, or 12.0 for 12."""
    name = re.sub(r"^(\./)+", "", _normalized(name))
    without_ending = cif_file.without_ending(name)
    # pandas writes a column of integers with missing values as floats.
    for candidate in (name, without_ending, re.sub(r"^(\d+)\.0+$", r"\1", without_ending)):
        if candidate in known:
            return candidate
    return name


def _normalized(name: str) -> str:
    """The name in Unicode form NFC; file names on macOS may be decomposed."""
    return unicodedata.normalize("NFC", name)


def _with_cif(row: Mapping[str, Any], file: Path) -> dict[str, Any]:
    try:
        text = cif_file.read_text(file)
    except OSError as error:
        return {**row, _PROBLEM: f"{file.name} cannot be read: {error_reason(error)}"}
    except CrystalError as error:
        return {**row, _PROBLEM: f"{file.name} cannot be used: {error}"}
    others = {*CRYSTAL_COLUMNS, *ARRAY_COLUMNS}  # the CIF takes precedence over columns
    return {name: value for name, value in row.items() if name not in others} | {"cif": text}
