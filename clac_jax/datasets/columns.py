"""The columns of a table: their names, which are required, and the faults that readers report."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from clac_jax.datasets.record import QUESTIONS, DataError, shortened

ID_COLUMNS = ("material_id", "id", "jid")
CRYSTAL_COLUMNS = ("atoms", "cif")
ARRAY_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")
TEXT_COLUMNS = ("gpt_text", "gpt_explanation", "text")
RESERVED = {*ID_COLUMNS, *CRYSTAL_COLUMNS, *ARRAY_COLUMNS, *TEXT_COLUMNS, *QUESTIONS, "formula"}
"""Columns that are never properties, whatever their values."""

MISSING = frozenset(("", "na", "NA", "n/a", "N/A", "<NA>", "nan", "NaN", "null", "NULL", "None"))
"""Texts that pandas, R, databases and JARVIS write where a value is missing; `Na` is sodium."""

# Pairs of a purpose and the groups of columns, one of which the table must have.
RequiredColumns = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

READ_BYTES = 1 << 20  # a row may take megabytes
_WIDE_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class UnreadableRow:
    """Placeholder for a row: the reason why it cannot be read, and its id if known."""

    reason: str
    id: str | None = None


def required_columns(needs_text: bool, needs_crystal: bool) -> RequiredColumns:
    """The columns of which a table must have one of each group."""
    crystal = ("a crystal", (CRYSTAL_COLUMNS, ARRAY_COLUMNS[:1]))
    text = ("a text", (TEXT_COLUMNS,))
    return (*([crystal] if needs_crystal else []), *([text] if needs_text else []))


def check_columns(path: Path, names: Iterable[str], required: RequiredColumns) -> None:
    """Raises `DataError` if a required column is missing."""
    names = set(names)
    for what, groups in required:
        if not any(names & set(group) for group in groups):
            listed = shortened(", ".join(sorted(names)), 400)
            raise DataError(
                f"{path} has no column for {what} ({' or '.join(groups[0])}); its columns are "
                f"{listed}. Rename or add a column."
            )


def check_repeated_names(path: Path, names: Iterable[str]) -> None:
    """Raises `DataError` if two of the columns in use have the same name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{path} has {count} columns named {shortened(name)!r}. Rename or remove all but "
                "one."
            )


def open_text(path: Path, errors: str = "strict", newline: str | None = None) -> TextIO:
    """Opens a file in UTF-8, with or without a byte order mark; `DataError` if it is UTF-16."""
    refuse_wide_text(path)
    return open(path, encoding="utf-8-sig", errors=errors, newline=newline)


def refuse_wide_text(path: Path) -> None:
    """Raises `DataError` if a file starts with the byte order mark of UTF-16."""
    with open(path, "rb") as file:
        if file.read(len(codecs.BOM_UTF16_LE)) in _WIDE_TEXT:
            raise DataError(f"{path} is UTF-16. Save it as UTF-8.")


def unreadable(path: Path, error: Any) -> DataError:
    """The error for a file that cannot be read to its end."""
    reason = shortened(str(error).split("\n")[0], 300)
    return DataError(f"{path} cannot be read: {reason}. Check that it is complete.")
