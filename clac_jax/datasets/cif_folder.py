"""A folder of CIF files with one table of their texts: each row names its file by its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clac_jax.datasets.record import DataError
from clac_jax.datasets.rows import ID_COLUMNS, read_table, row_name

TABLES = (".csv", ".jsonl", ".parquet")
_PROBLEM = "cif folder problem"  # a key that no table has a column for


def files(folder: Path) -> list[Path]:
    """Everything that a folder's data are made of, sorted: its table and its CIF files.

    Raises:
        DataError: it has no CIF file, or not exactly one table.
    """
    return [table(folder), *sorted(folder.glob("*.cif"))]


def table(folder: Path) -> Path:
    """The table of a folder; errors as for `files`."""
    tables = sorted(path for path in folder.iterdir() if path.suffix in TABLES)
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"{folder} must hold one table ({', '.join(TABLES)}) with the ids and texts of its CIF "
            f"files, and holds {found}. Add it, or move the others elsewhere."
        )
    if not any(folder.glob("*.cif")):
        raise DataError(f"{folder} holds no .cif file. Give the folder that does.")
    return tables[0]


def rows(folder: Path, needs_text: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of the table, each with the text of its file as `cif`, and the files without a row.

    What is wrong with a row is told by `check`.

    Raises:
        DataError: see `files` and `read_table`.
    """
    path = table(folder)
    unnamed = {file.stem: file for file in folder.glob("*.cif")}
    for row in read_table(path, needs_text, needs_crystal=False):
        name = (row_name(row) or "").removesuffix(".cif")
        file = folder / f"{name}.cif"
        unnamed.pop(name, None)
        if not isinstance(row, Mapping):
            yield row
        elif not name:
            columns = ", ".join(ID_COLUMNS)
            yield {**row, _PROBLEM: f"it has no id ({columns}) that names a CIF file"}
        elif Path(name).name != name or not file.is_file():
            yield {**row, _PROBLEM: f"there is no {file}"}
        else:
            yield {**row, "cif": file.read_text(encoding="utf-8", errors="replace")}
    for name, file in sorted(unnamed.items()):
        yield {"id": name, _PROBLEM: f"{file.name} has no row in {path.name}"}


def check(row: Any) -> None:
    """What `rows` found wrong.

    Raises:
        DataError: naming it.
    """
    if isinstance(row, Mapping) and _PROBLEM in row:
        raise DataError(row[_PROBLEM])
