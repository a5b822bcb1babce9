"""Unusable rows of a table: listed in a file, counted, and summarized by reason."""

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
from clac_jax.errors import counted

SHOWN_ROWS = 20
SHOWN_REASONS = 3
MAX_KINDS = 1000
"""Largest number of distinct reasons that are counted, as every row may have its own."""

REASON_LETTERS = 300


@dataclass(frozen=True)
class BadRow:
    """An unusable row: its file, number (from 0), id if it has one, and the reason."""

    file: str
    row: int
    id: str | None
    reason: str

    def __str__(self) -> str:
        name = "without id" if self.id is None else self.id
        return f"{self.file} row {self.row} ({name}): {self.reason}"


class BadRowsError(DataError):
    """A table has unusable rows.

    Attributes:
        listing: file that lists all of them; None if the message does.
    """

    def __init__(self, rows: BadRows):
        """Lists the first rows in the message."""
        self.listing = rows.path if rows.count > SHOWN_ROWS else None
        listed = "".join(f"\n  {row}" for row in rows.first)
        more = rows.count - SHOWN_ROWS
        super().__init__(
            f"{_count(rows.count)} cannot be used:{listed}"
            + (f"\n  and {more:,} more" if more > 0 else "")
            + "\nFix them, or skip them with --on_bad_row=skip (`clac-jax train`: "
            "--config.dataset.on_bad_row=skip)."
        )


class BadRows:
    """Collects bad rows in a JSON Lines file with the keys file, row, id and reason.

    Attributes:
        path: path of the file, which `finish` writes if there are bad rows.
        count: number of bad rows, once `finish` was called.
        first: the first SHOWN_ROWS of them.
    """

    def __init__(self, path: Path, files: Iterable[str]):
        """Starts an empty list.

        Args:
            path: path of the file to write.
            files: names of the tables in the order in which they are read.
        """
        self.path = path
        self.count = 0
        self.first: list[BadRow] = []
        self._order = {name: number for number, name in enumerate(files)}
        self._kinds: Counter[str] = Counter()
        self._part = path.with_suffix(".part")
        self._file: TextIO | None = None

    def add(self, file: str, row: int, name: str | None, reason: str) -> None:
        """Adds a row; must be called in the order of files and rows."""
        if self._file is None:
            self._file = _open(self._part)
        self._file.write(_line(bad_row(file, row, name, reason)))

    def finish(self, others: Iterable[BadRow]) -> None:
        """Writes the file, merging in other rows that are sorted in the same way."""
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
            # Reasons that differ only in numbers ("Atoms 3 and 7 are 0.02 ...") count as one.
            kind = re.sub(r"\d+(\.\d+)?", "N", row.reason)
            self._kinds[kind if kind in self._kinds or len(self._kinds) < MAX_KINDS else ""] += 1
        if self.count:
            self._file.close()  # type: ignore[union-attr]
        self._part.unlink(missing_ok=True)

    def notice(self, path: Path, what: str = "skipped") -> str:
        """A one-line summary for the user; "" if there are no bad rows.

        Args:
            path: final path of the list.
            what: what was done with the rows.
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
    """A `BadRow` whose id and reason are shortened and printable."""
    shown = None if name is None else shortened(name)
    return BadRow(file, row, shown, shortened(reason, REASON_LETTERS))


def _open(path: Path) -> TextIO:
    # The name of a file may contain bytes that are not UTF-8.
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _line(row: BadRow) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"


def _count(rows: int) -> str:
    return counted(rows, "row")
