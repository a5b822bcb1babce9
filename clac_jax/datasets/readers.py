"""Readers of parquet, csv, jsonl and json tables, in chunks and with only the columns in use.

A row that cannot be read is yielded as an `UnreadableRow` and later treated as a bad row; a file
that cannot be read raises `DataError`.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet

from clac_jax.datasets.record import PROPERTIES, QUESTIONS, DataError, is_unicode, shortened
from clac_jax.errors import error_reason

ID_COLUMNS = ("material_id", "id", "jid")
CRYSTAL_COLUMNS = ("atoms", "cif")
ARRAY_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")
TEXT_COLUMNS = ("gpt_text", "gpt_explanation", "text")
RESERVED = {*ID_COLUMNS, *CRYSTAL_COLUMNS, *ARRAY_COLUMNS, *TEXT_COLUMNS, *QUESTIONS, "formula"}
"""Columns that are never properties, whatever their values."""

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")

# Pairs of a purpose and the groups of columns, one of which the table must have.
RequiredColumns = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

# A row may take megabytes.
BATCH_ROWS = 64
READ_BYTES = 1 << 20
# Limit for a cell of a csv file; the CIF of a large cell has about 100 kB.
CSV_CELL_CHARACTERS = 1 << 26
# JARVIS writes a missing number as "na".
CSV_MISSING = frozenset(("", "na", "NA", "N/A", "nan", "NaN", "null", "None"))
_SHOWN_KEYS = 1000
_JSON_DELIMITERS = tuple(" \t\r\n,]")
_WIDE_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class UnreadableRow:
    """Placeholder for a row: the reason why it cannot be read, and its id if known."""

    reason: str
    id: str | None = None


class RepeatedKeyError(ValueError):
    """A JSON object repeats a key."""


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
    readers = {
        ".parquet": _parquet_rows,
        ".csv": _csv_rows,
        ".jsonl": _json_lines,
        ".json": _json_list,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"The suffix of {path} is not one of {', '.join(SUFFIXES)}. Convert the file."
        )
    try:
        yield from read(path, _required_columns(needs_text, needs_crystal))
    except OSError as error:
        raise _unreadable(path, error_reason(error)) from error


def loads(text: str | bytes) -> Any:
    """`json.loads` that rejects repeated keys.

    Raises:
        ValueError: the text is not JSON, or (`RepeatedKeyError`) an object repeats a key.
        RecursionError: the text is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise repeated_key(name for name, _ in pairs)
    return values


def repeated_key(keys: Iterable[Any]) -> RepeatedKeyError:
    """The error for the most frequent of the keys."""
    ((name, _),) = Counter(keys).most_common(1)
    return RepeatedKeyError(f"the key {shortened(str(name))!r} occurs twice in an object")


def _parquet_rows(path: Path, required: RequiredColumns) -> Iterator[Any]:
    try:
        # With a buffer, the column of a row group is not read completely into memory.
        with pa.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
            schema = file.schema_arrow
            names = schema.names
            used = [field.name for field in schema if _is_used(field)]
            _check_columns(path, names, required)
            _check_repeated_names(path, used)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=used):
                yield from _batch_rows(batch)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(path, error) from error


def _is_used(field: pa.Field) -> bool:
    kind = field.type
    is_number = any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )
    return field.name in RESERVED or field.name in PROPERTIES or is_number


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    """The rows of a batch; row by row if some value cannot be converted."""
    try:
        yield from batch.to_pylist()
        return
    except (pa.ArrowException, ValueError, OverflowError):
        pass  # reported below, for the rows that have it
    for number in range(batch.num_rows):
        row, problem = {}, ""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[number].as_py()
            except UnicodeDecodeError:
                problem = problem or f"its {name} is not UTF-8"
            except (pa.ArrowException, ValueError, OverflowError) as error:
                problem = problem or f"its {name} cannot be read ({error})"
        named = (str(row[key]) for key in ID_COLUMNS if row.get(key) not in (None, ""))
        yield UnreadableRow(problem, next(named, None)) if problem else row


def _csv_rows(path: Path, required: RequiredColumns) -> Iterator[Any]:
    with _open_text(path, errors="surrogateescape", newline="") as file:
        rows = _csv_records(path, file)
        names = next(rows, None)
        if names is None:
            raise DataError(f"{path} is empty. Use a file with data.")
        _check_separator(path, names)
        _check_columns(path, names, required)
        others = _number_columns(rows, names)
    chosen = [
        (place, name)
        for place, name in enumerate(names)
        if place in others or name in RESERVED or name in PROPERTIES
    ]
    _check_repeated_names(path, [name for _, name in chosen])
    with _open_text(path, errors="surrogateescape", newline="") as file:
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
            if cells[place].strip() in CSV_MISSING:
                continue
            some.add(place)
            if _csv_number(cells[place]) is None:
                left.discard(place)
    return left & some


def _csv_number(cell: str) -> float | None:
    try:
        return (
            None if "_" in cell else float(cell)
        )  # Python accepts "1_000"; data files do not mean it
    except ValueError:
        return None


def _json_lines(path: Path, required: RequiredColumns) -> Iterator[Any]:
    """The value on each line; empty lines are skipped."""
    seen = _SeenKeys(path, required)
    _refuse_wide_text(path)
    with open(path, "rb") as file:
        for line in filter(bytes.strip, file):
            try:
                row = loads(line.removeprefix(codecs.BOM_UTF8))
            except RepeatedKeyError as error:
                row = UnreadableRow(str(error))
            except (ValueError, RecursionError) as error:
                row = UnreadableRow(f"it is not JSON ({error})")
            yield seen.record(row)
    seen.check()


def _json_list(path: Path, required: RequiredColumns) -> Iterator[Any]:
    """The values of a list, with one in memory at a time."""
    seen = _SeenKeys(path, required)
    for row in _JsonList(path):
        yield seen.record(row)
    seen.check()


class _JsonList:
    """Iterates over the list in a JSON file without loading all of it."""

    def __init__(self, path: Path):
        self._path = path
        self._strict = json.JSONDecoder(object_pairs_hook=_object)
        self._text, self._place, self._is_all = "", 0, False

    def __iter__(self) -> Iterator[Any]:
        try:
            with _open_text(self._path) as file:
                yield from self._values(file)
        except DataError:
            raise
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self._path} is not JSON ({error}). Check that it is complete."
            ) from error

    def _values(self, file: TextIO) -> Iterator[Any]:
        if self._next_character(file) != "[":
            json.loads(self._text + file.read())  # raises if it is not JSON
            raise DataError(
                f"{self._path} does not contain a list of objects. Convert it to one, or to .jsonl."
            )
        self._place += 1
        if self._next_character(file) == "]":
            self._place += 1
        else:
            character = ","
            while character == ",":
                yield self._value(file)
                character = self._next_character(file)
                self._place += 1
            if character != "]":
                raise ValueError(f"{character or 'the end of the file'!r} instead of ',' or ']'")
        if rest := self._next_character(file):
            raise ValueError(f"{rest!r} after the end of the list")

    def _value(self, file: TextIO) -> Any:
        self._next_character(file)
        while True:
            try:
                value, end = self._decode()
            except ValueError:
                if self._is_all:
                    raise
            else:
                # The text read so far may end within a number.
                if self._text[end : end + 1] in _JSON_DELIMITERS or self._is_all:
                    self._place = end
                    return value
            self._read(file, max(READ_BYTES, len(self._text)))

    def _decode(self) -> tuple[Any, int]:
        try:
            return self._strict.raw_decode(self._text, self._place)
        except RepeatedKeyError as error:
            _, end = json.JSONDecoder().raw_decode(self._text, self._place)
            return UnreadableRow(str(error)), end

    def _next_character(self, file: TextIO) -> str:
        """The next character that is not whitespace, without consuming it; "" at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in " \t\r\n":
                    return self._text[self._place]
                self._place += 1
            if self._is_all:
                return ""
            self._read(file, READ_BYTES)

    def _read(self, file: TextIO, size: int) -> None:
        more = file.read(size)
        self._is_all = not more
        self._text, self._place = self._text[self._place :] + more, 0


class _SeenKeys:
    """Checks the columns of JSON rows once all are read, since rows may omit keys."""

    def __init__(self, path: Path, required: RequiredColumns):
        self._path, self._required = path, required
        self._keys: set[str] = set()
        self._number = 0
        self._unreadable = 0

    def record(self, row: Any) -> Any:
        """Records the keys of a row and returns it."""
        self._number += 1
        self._unreadable += isinstance(row, UnreadableRow)
        if isinstance(row, dict):
            below_limit = len(self._keys) < _SHOWN_KEYS  # every row may have new keys
            self._keys.update(row if below_limit else row.keys() & RESERVED)
        return row

    def check(self) -> None:
        """Raises `DataError` if there are no rows or a required column is missing."""
        if self._number == 0:
            raise DataError(f"{self._path} has no rows. Use a file with data.")
        if self._unreadable < self._number:
            _check_columns(self._path, self._keys, self._required)


def _open_text(path: Path, errors: str = "strict", newline: str | None = None) -> TextIO:
    _refuse_wide_text(path)
    return open(path, encoding="utf-8-sig", errors=errors, newline=newline)


def _refuse_wide_text(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(codecs.BOM_UTF16_LE)) in _WIDE_TEXT:
            raise DataError(f"{path} is UTF-16. Save it as UTF-8.")


def _required_columns(needs_text: bool, needs_crystal: bool) -> RequiredColumns:
    crystal = ("a crystal", (CRYSTAL_COLUMNS, ARRAY_COLUMNS[:1]))
    text = ("a text", (TEXT_COLUMNS,))
    return (*([crystal] if needs_crystal else []), *([text] if needs_text else []))


def _check_columns(path: Path, names: Iterable[str], required: RequiredColumns) -> None:
    names = set(names)
    for what, groups in required:
        if not any(names & set(group) for group in groups):
            listed = shortened(", ".join(sorted(names)), 400)
            raise DataError(
                f"{path} has no column for {what} ({' or '.join(groups[0])}); its columns are "
                f"{listed}. Rename or add a column."
            )


def _check_repeated_names(path: Path, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{path} has {count} columns named {shortened(name)!r}. Rename or remove all but "
                "one."
            )


def _unreadable(path: Path, error: Any) -> DataError:
    reason = shortened(str(error).split("\n")[0], 300)
    return DataError(f"{path} cannot be read: {reason}. Check that it is complete.")
