"""Readers of jsonl files, line by line, and of a list in a JSON file, value by value."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from clac_jax.datasets.columns import (
    READ_BYTES,
    RESERVED,
    RequiredColumns,
    UnreadableRow,
    check_columns,
    open_text,
    refuse_wide_text,
)
from clac_jax.datasets.record import DataError, shortened

_SHOWN_KEYS = 1000
_JSON_DELIMITERS = tuple(" \t\r\n,]")


class RepeatedKeyError(ValueError):
    """A JSON object repeats a key."""


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


def json_lines(path: Path, required: RequiredColumns) -> Iterator[Any]:
    """The value on each line; empty lines are skipped."""
    seen = _SeenKeys(path, required)
    refuse_wide_text(path)
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


def json_list(path: Path, required: RequiredColumns) -> Iterator[Any]:
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
            with open_text(self._path) as file:
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
            check_columns(self._path, self._keys, self._required)
