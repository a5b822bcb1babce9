"""Readers of parquet, csv, jsonl and json tables, in chunks and with only the columns in use.

A row that cannot be read is yielded as an `UnreadableRow` and later treated as a bad row; a file
that cannot be read raises `DataError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clac_jax.datasets.columns import required_columns, unreadable
from clac_jax.datasets.csv_reader import csv_rows
from clac_jax.datasets.json_reader import json_lines, json_list
from clac_jax.datasets.parquet_reader import parquet_rows
from clac_jax.datasets.record import DataError
from clac_jax.errors import error_reason

_READERS = {
    ".parquet": parquet_rows,
    ".csv": csv_rows,
    ".jsonl": json_lines,
    ".json": json_list,
}
SUFFIXES = tuple(_READERS)


def read_table(path: Path, needs_text: bool = True, needs_crystal: bool = True) -> Iterator[Any]:
    """Reads the rows of a parquet, csv, jsonl or json file in chunks.

    Only the columns that a record uses are read: those in `RESERVED` or `PROPERTIES`, and all other
    columns of numbers.

    Args:
        path: path of the file; a .json file must contain a list of objects, as that of JARVIS does.
        needs_text: whether a column for texts is required.
        needs_crystal: whether a column for crystals is required.

    Yields:
        Dicts, or other JSON values where a row is not an object; an `UnreadableRow` for a row that
        cannot be read.

    Raises:
        DataError: the file is missing or not of the type of its suffix, two columns in use have the
            same name, or a required column is missing.
    """
    if not path.is_file():
        raise DataError(f"The data file {path} does not exist. Check dataset.path.")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"The suffix of {path} is not one of {', '.join(SUFFIXES)}. Convert the file."
        )
    try:
        yield from read(path, required_columns(needs_text, needs_crystal))
    except OSError as error:
        raise unreadable(path, error_reason(error)) from error
