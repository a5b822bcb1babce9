"""Rows of a table that cannot be used: listed on the disk, counted and shown by their reasons."""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from clac_jax.datasets.record import DataError, shortened

SHOWN_ROWS = 20
SHOWN_REASONS = 3
MAX_KINDS = 1000
"""Kinds of reasons that are distinguished; a million rows may each have their own."""

REASON_LETTERS = 300


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its file, its number (the first is 0), its id, and why."""

    file: str
    row: int
    id: str | None
    reason: str

    def __str__(self) -> str:
        name = "without id" if self.id is None else self.id
        return f"{self.file} row {self.row} ({name}): {self.reason}"


class BadRowsError(DataError):
    """Rows of a table cannot be used.

    Attributes:
        listing: the file that has them all, where the message does not.
    """

    def __init__(self, rows: BadRows):
        """Names the first rows."""
        self.listing = rows.path if rows.count > SHOWN_ROWS else None
        listed = "".join(f"\n  {row}" for row in rows.first)
        more = rows.count - SHOWN_ROWS
        super().__init__(
            f"{_count(rows.count)} cannot be used:{listed}"
            + (f"\n  and {more:,} more" if more > 0 else "")
            + "\nFix them, or leave them out with --config.dataset.on_bad_row=skip."
        )


class BadRows:
    """Collects bad rows in a file, one JSON object per line: file, row, id, reason.

    Attributes:
        path: of that file, which is there once `finish` has been called with any row.
        count: of all.
        first: the first SHOWN_ROWS of them.
    """

    def __init__(self, path: Path, files: Iterable[str]):
        """Opens it.

        Args:
            path: of the list.
            files: names of the tables, in the order in which they are read.
        """
        self.path = path
        self.count = 0
        self.first: list[BadRow] = []
        self._order = {name: number for number, name in enumerate(files)}
        self._kinds: Counter[str] = Counter()
        self._part = path.with_suffix(".part")
        self._file: TextIO | None = None

    def add(self, file: str, row: int, name: str | None, reason: str) -> None:
        """Notes a row; rows are given in the order of the tables."""
        if self._file is None:
            self._file = _open(self._part)
        self._file.write(_line(bad_row(file, row, name, reason)))

    def finish(self, others: Iterable[BadRow]) -> None:
        """Writes the list, with other rows, in the same order, sorted in."""
        if self._file is not None:
            self._file.close()

        def place(row: BadRow) -> tuple[int, int]:
            return self._order[row.file], row.row

        for row in heapq.merge(self._noted(), others, key=place):
            if self.count == 0:
                self._file = _open(self.path)
            self._file.write(_line(row))  # type: ignore[union-attr]  # opened by the first
            self.count += 1
            if len(self.first) < SHOWN_ROWS:
                self.first.append(row)
            # "Atoms 3 and 7 are 0.02 angstrom apart" and the like, with any numbers, is one.
            kind = re.sub(r"\d+(\.\d+)?", "N", row.reason)
            self._kinds[kind if kind in self._kinds or len(self._kinds) < MAX_KINDS else ""] += 1
        if self.count:
            self._file.close()  # type: ignore[union-attr]
        self._part.unlink(missing_ok=True)

    def notice(self, path: Path, what: str = "skipped") -> str:
        """One line on the rows, "" without any.

        Args:
            path: where the list will be found.
            what: became of them.
        """
        if not self.count:
            return ""
        named = [item for item in self._kinds.most_common(SHOWN_REASONS + 1) if item[0]]
        reasons = [f"{count} x {kind}" for kind, count in named[:SHOWN_REASONS]]
        others = ["others"] if len(self._kinds) > len(reasons) else []
        said = "; ".join(reasons + others)
        return f"{_count(self.count)} {what} ({said}), all listed in {path}"

    def _noted(self) -> Iterator[BadRow]:
        if self._file is not None:
            with open(self._part, encoding="utf-8") as file:
                for line in file:
                    yield BadRow(**json.loads(line))


def bad_row(file: str, row: int, name: str | None, reason: str) -> BadRow:
    """A bad row, with what came from the table short and printable."""
    shown = None if name is None else shortened(name)
    return BadRow(file, row, shown, shortened(reason, REASON_LETTERS))


def _open(path: Path) -> TextIO:
    # A file's name may have bytes that are not UTF-8; JSON reads them back.
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _line(row: BadRow) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"
