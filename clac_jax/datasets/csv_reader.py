"""Reader of csv tables: in two passes, of which the first finds the columns of numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from clac_jax.datasets.columns import (
    MISSING,
    RESERVED,
    RequiredColumns,
    UnreadableRow,
    check_columns,
    check_repeated_names,
    open_text,
)
from clac_jax.datasets.record import PROPERTIES, DataError, is_unicode

# Limit for a cell; the CIF of a large cell has about 100 kB.
CSV_CELL_CHARACTERS = 1 << 26


def csv_rows(path: Path, required: RequiredColumns) -> Iterator[Any]:
    """The rows of a file; see `readers.read_table`."""
    with open_text(path, errors="surrogateescape", newline="") as file:
        rows = _csv_records(path, file)
        names = next(rows, None)
        if names is None:
            raise DataError(f"{path} is empty. Use a file with data.")
        _check_separator(path, names)
        check_columns(path, names, required)
        others = _number_columns(rows, names)
    chosen = [
        (place, name)
        for place, name in enumerate(names)
        if place in others or name in RESERVED or name in PROPERTIES
    ]
    check_repeated_names(path, [name for _, name in chosen])
    with open_text(path, errors="surrogateescape", newline="") as file:
        rows = _csv_records(path, file)
        next(rows)
        for cells in rows:
            if len(cells) != len(names):
                yield UnreadableRow(f"it has {len(cells)} cells for {len(names)} columns")
            else:
                yield {
                    name: _csv_number(cells[place]) if place in others else cells[place]
                    for place, name in chosen
                }


def _check_separator(path: Path, names: list[str]) -> None:
    """Rejects other separators, such as the semicolons of many spreadsheet programs."""
    for separator in (";", "\t", "|"):
        if len(names) == 1 and separator in names[0]:
            raise DataError(
                f"{path} uses {separator!r} as the column separator. Save it with commas (and "
                "decimal points), or as .jsonl or .parquet."
            )


def _csv_records(path: Path, file: TextIO) -> Iterator[list[str]]:
    """The rows of cells, without empty rows."""
    csv.field_size_limit(CSV_CELL_CHARACTERS)
    reader = csv.reader(file, strict=True)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read: line {reader.line_num}: {error}. Check the quotes there and "
            "that the file is complete."
        ) from error


def _number_columns(rows: Iterator[list[str]], names: list[str]) -> set[int]:
    """Indices of the columns, other than those known by name, that contain only numbers."""
    left = {
        place
        for place, name in enumerate(names)
        if name not in RESERVED and name not in PROPERTIES and is_unicode(name)
    }
    some: set[int] = set()
    for cells in rows:
        if len(cells) != len(names) or not left:
            continue
        for place in tuple(left):
            if cells[place].strip() in MISSING:
                continue
            some.add(place)
            if _csv_number(cells[place]) is None:
                left.discard(place)
    return left & some


def _csv_number(cell: str) -> float | None:
    try:
        # Python accepts "1_000"; data files do not mean it.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
