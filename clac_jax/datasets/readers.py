"""Tables to rows: parquet, csv, jsonl and json, a piece at a time, and only the columns in use.

A row that cannot be read is given as an `UnreadableRow`, which becomes a bad row like any other; a
file that cannot be read is a `DataError`.
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
from clac_jax.errors import in_words

ID_COLUMNS = ("material_id", "id", "jid")
CRYSTAL_COLUMNS = ("atoms", "cif")
ARRAY_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")
TEXT_COLUMNS = ("gpt_text", "gpt_explanation", "text")
RESERVED = {*ID_COLUMNS, *CRYSTAL_COLUMNS, *ARRAY_COLUMNS, *TEXT_COLUMNS, *QUESTIONS, "formula"}
"""Columns that are never a property, whatever they hold."""

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")

# What a table must have a column for, and the groups of columns of which one will do.
Wanted = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

# Rows may hold megabytes each.
ROWS_AT_ONCE = 64
READ_BYTES = 1 << 20
# One cell of a csv; a CIF of a large cell is some 100 kB.
CSV_CELL_CHARACTERS = 1 << 26
# JARVIS writes a missing number as "na".
CSV_MISSING = frozenset(("", "na", "NA", "N/A", "nan", "NaN", "null", "None"))
_SHOWN_KEYS = 1000
_JSON_DELIMITERS = tuple(" \t\r\n,]")
_WIDE_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class UnreadableRow:
    """In place of a row: why it cannot be read, and its id where that can."""

    reason: str
    id: str | None = None


class RepeatedKeyError(ValueError):
    """A JSON object has two values under one key."""


def read_table(path: Path, needs_text: bool = True, needs_crystal: bool = True) -> Iterator[Any]:
    """The rows of a parquet, csv, jsonl or json file as dicts, a piece at a time.

    Only the columns that a record is made of are read: those with a name in `RESERVED` or
    `PROPERTIES`, and every other one that holds numbers.

    Args:
        path: of the file; a .json holds one list of objects, as JARVIS's does.
        needs_text: whether a column for a text must be there.
        needs_crystal: whether one for a crystal must.

    Yields:
        Dicts; an `UnreadableRow` in place of a row that cannot be read; any JSON value.

    Raises:
        DataError: there is no such file, it is not what its name says, two of its columns have one
            name, or it has no column for a crystal or for a text.
    """
    if not path.is_file():
        raise DataError(f"There is no data file {path}. Check dataset.path.")
    readers = {
        ".parquet": _parquet_rows,
        ".csv": _csv_rows,
        ".jsonl": _json_lines,
        ".json": _json_list,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"The ending of {path} is not one of {', '.join(SUFFIXES)}. Convert it to such a file."
        )
    try:
        yield from read(path, _wanted(needs_text, needs_crystal))
    except OSError as error:
        raise _unreadable(path, in_words(error)) from error


def loads(text: str | bytes) -> Any:
    """`json.loads`, where an object with two values under one key is an error.

    Raises:
        ValueError: it is not JSON; `RepeatedKeyError` for such an object.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise repeated_key(name for name, _ in pairs)
    return values


def repeated_key(keys: Iterable[Any]) -> RepeatedKeyError:
    """The error for the key that comes most often."""
    ((name, _),) = Counter(keys).most_common(1)
    return RepeatedKeyError(f"the key {shortened(str(name))!r} comes twice in one object")


def _parquet_rows(path: Path, wanted: Wanted) -> Iterator[Any]:
    try:
        # A buffer, so that not all of a column's share of a row group is in memory.
        with pa.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
            schema = file.schema_arrow
            names = schema.names
            used = [field.name for field in schema if _is_used(field)]
            _check_columns(path, names, wanted)
            _check_twice(path, used)
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=used):
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
    """The rows of a batch; one by one where a value cannot be converted."""
    try:
        yield from batch.to_pylist()
        return
    except (pa.ArrowException, ValueError, OverflowError):
        pass  # reported of the rows that have it
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


def _csv_rows(path: Path, wanted: Wanted) -> Iterator[Any]:
    with _open_text(path, errors="surrogateescape", newline="") as file:
        rows = _csv_records(path, file)
        names = next(rows, None)
        if names is None:
            raise DataError(f"{path} is empty. Give a file with data.")
        _check_separator(path, names)
        _check_columns(path, names, wanted)
        others = _number_columns(rows, names)
    chosen = [
        (place, name)
        for place, name in enumerate(names)
        if place in others or name in RESERVED or name in PROPERTIES
    ]
    _check_twice(path, [name for _, name in chosen])
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
    """Spreadsheets of many languages write semicolons, some programs tabs."""
    for separator in (";", "\t", "|"):
        if len(names) == 1 and separator in names[0]:
            raise DataError(
                f"{path} separates its columns by {separator!r}. Save it with commas (and decimal "
                "points), or as .jsonl or .parquet."
            )


def _csv_records(path: Path, file: TextIO) -> Iterator[list[str]]:
    """The lines of cells; empty ones are left out."""
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
    """The columns, besides those that are known by name, in which every value is a number."""
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
        return None if "_" in cell else float(cell)  # Python's "1_000" is nobody's number
    except ValueError:
        return None


def _json_lines(path: Path, wanted: Wanted) -> Iterator[Any]:
    """The value of each line; empty lines are not rows."""
    seen = _SeenKeys(path, wanted)
    _refuse_wide_text(path)
    with open(path, "rb") as file:
        for line in filter(bytes.strip, file):
            try:
                row = loads(line.removeprefix(codecs.BOM_UTF8))
            except RepeatedKeyError as error:
                row = UnreadableRow(str(error))
            except (ValueError, RecursionError) as error:
                row = UnreadableRow(f"it is not JSON ({error})")
            yield seen.through(row)
    seen.check()


def _json_list(path: Path, wanted: Wanted) -> Iterator[Any]:
    """The values of a list, one in memory at a time."""
    seen = _SeenKeys(path, wanted)
    for row in _JsonList(path):
        yield seen.through(row)
    seen.check()


class _JsonList:
    """Iterates over a list in a file of JSON."""

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
            json.loads(self._text + file.read())  # tells what is wrong with it, if anything
            raise DataError(
                f"{self._path} does not hold a list of objects. Convert it to one, or to .jsonl."
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
                raise ValueError(f"{character or 'the end of the file'!r} where , or ] should be")
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
                # What has been read so far may end within a number.
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
        """The next one that is not white space, which is not passed over; "" at the end."""
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
    """Checks the columns of JSON rows: keys may be left out of a row, so once all are seen."""

    def __init__(self, path: Path, wanted: Wanted):
        self._path, self._wanted = path, wanted
        self._keys: set[str] = set()
        self._number = 0
        self._unreadable = 0

    def through(self, row: Any) -> Any:
        """The row itself."""
        self._number += 1
        self._unreadable += isinstance(row, UnreadableRow)
        if isinstance(row, dict):
            has_room = len(self._keys) < _SHOWN_KEYS  # each row may have its own
            self._keys.update(row if has_room else row.keys() & RESERVED)
        return row

    def check(self) -> None:
        """Raises `DataError` where there is no row, or no column that is needed."""
        if self._number == 0:
            raise DataError(f"{self._path} has no rows. Give a file with data.")
        if self._unreadable < self._number:
            _check_columns(self._path, self._keys, self._wanted)


def _open_text(path: Path, errors: str = "strict", newline: str | None = None) -> TextIO:
    _refuse_wide_text(path)
    return open(path, encoding="utf-8-sig", errors=errors, newline=newline)


def _refuse_wide_text(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(codecs.BOM_UTF16_LE)) in _WIDE_TEXT:
            raise DataError(f"{path} is UTF-16. Save it as UTF-8.")


def _wanted(needs_text: bool, needs_crystal: bool) -> Wanted:
    crystal = ("a crystal", (CRYSTAL_COLUMNS, ARRAY_COLUMNS[:1]))
    text = ("a text", (TEXT_COLUMNS,))
    return (*([crystal] if needs_crystal else []), *([text] if needs_text else []))


def _check_columns(path: Path, names: Iterable[str], wanted: Wanted) -> None:
    names = set(names)
    for what, groups in wanted:
        if not any(names & set(group) for group in groups):
            listed = shortened(", ".join(sorted(names)), 400)
            raise DataError(
                f"{path} has no column for {what} ({' or '.join(groups[0])}); its columns are "
                f"{listed}. Rename or add one."
            )


def _check_twice(path: Path, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{path} has {count} columns named {shortened(name)!r}. Rename or remove all but "
                "one."
            )


def _unreadable(path: Path, error: Any) -> DataError:
    reason = shortened(str(error).split("\n")[0], 300)
    return DataError(f"{path} cannot be read: {reason}. Check that it is complete.")
