"""What the builders share that read a table which the user gives by path."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clac_jax.datasets import cif_folder
from clac_jax.datasets.builder import RecordBuilder
from clac_jax.datasets.options import DEFAULTS, TableOptions
from clac_jax.datasets.record import DataError, Record
from clac_jax.datasets.rows import read_table, record_of_row, row_name
from clac_jax.datasets.split import SPLITS, split_by_formula, split_by_row
from clac_jax.errors import UserError

# Sibling files of the public data set -> splits.
SIBLINGS = {"train": "_train", "validation": "_val", "test": "_test"}
SKIPPED_ROWS = "skipped_rows.jsonl"
UNLABELLED = "unlabelled_rows.json"
SHOWN_BAD_ROWS = 20
SHOWN_REASONS = 3


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
    """Rows of a table cannot be used; `rows` has them all, the message names the first."""

    def __init__(self, rows: list[BadRow]):
        """Names the rows."""
        self.rows = rows
        listed = "".join(f"\n  {row}" for row in rows[:SHOWN_BAD_ROWS])
        more = len(rows) - SHOWN_BAD_ROWS
        super().__init__(
            f"{_count(rows)} cannot be used:{listed}"
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nMend them, or leave them out with --config.dataset.on_bad_row=skip."
        )


class TableBuilder(RecordBuilder, skip_registration=True):
    """Crystals from a table that the user gives; a subclass says which columns it must have."""

    needs_text = True

    def __init__(
        self,
        *,
        path: str | Path,
        options: TableOptions = DEFAULTS,
        **kwargs: Any,
    ):
        """Prepares to read a table.

        Args:
            path: parquet, csv, jsonl or json, see `split_files`; or a folder of CIF files with a
                table of their texts, see `cif_folder`.
            options: what to do with bad rows, and how to split.
            kwargs: see RecordBuilder.
        """
        self._path = Path(path)
        self._options = options
        super().__init__(**kwargs)

    def records(self) -> dict[str, Iterable[Record]]:
        """The good rows of the file, or of the three files, by split.

        Raises:
            DataError: a file is missing or cannot be read, or a split is left without a row.
            BadRowsError: rows are bad and none may be skipped.
        """
        bad: list[BadRow] = []
        files = split_files(self._path)
        seen: dict[str, str] = {}
        tables = {
            split: list(_good_rows(path, self.needs_text, seen, bad))
            for split, path in files.items()
        }
        if bad and self._options.on_bad_row == "error":
            raise BadRowsError(bad)
        self._list_skipped(bad)
        if self._options.label:
            tables = self._labelled(tables)
        splits = tables if len(tables) > 1 else self._split(tables["train"])
        for split, records in splits.items():
            if not records:
                raise DataError(
                    f"{self._path} leaves no example for the {split} split. Give more rows."
                )
        return splits

    def _split(self, records: list[Record]) -> dict[str, list[Record]]:
        if self._options.split_by == "formula":
            sides = split_by_formula([record.crystal().formula for record in records])
        else:
            sides = split_by_row(len(records))
        return {
            split: [r for r, side in zip(records, sides, strict=True) if side == split]
            for split in SPLITS
        }

    def _labelled(self, tables: dict[str, list[Record]]) -> dict[str, list[Record]]:
        kept = {
            split: [record for record in records if self._options.label in record.properties]
            for split, records in tables.items()
        }
        if not any(kept.values()):
            records = [record for table in tables.values() for record in table]
            known = sorted({name for record in records for name in record.properties})
            raise DataError(
                f"{self._path} has no number in a column {self._options.label!r}. Set "
                f"config.property.name to one of {', '.join(known)}."
            )
        dropped = sum(map(len, tables.values())) - sum(map(len, kept.values()))
        path = Path(self.data_dir).parent / UNLABELLED
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"label": self._options.label, "rows": dropped}
        path.write_text(json.dumps(values), encoding="utf-8")
        return kept

    def _list_skipped(self, bad: list[BadRow]) -> None:
        if bad:
            path = Path(self.data_dir).parent / SKIPPED_ROWS
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bad_rows(path, bad)


def split_files(path: Path) -> dict[str, Path]:
    """The files that a path stands for.

    Where its name ends in `_train`, `_val` or `_test` and the other two lie beside it, the three
    are the splits. Any other file stands for itself and is split; it is called "train".

    Raises:
        DataError: one of the three is missing, so that rows of the others might be dealt out anew.
    """
    for ending in SIBLINGS.values():
        if path.stem.endswith(ending):
            stem = path.stem.removesuffix(ending)
            files = {split: path.with_stem(stem + other) for split, other in SIBLINGS.items()}
            missing = [file for file in files.values() if not file.is_file()]
            if not missing:
                return files
            if len(missing) < len(files) - 1:
                raise DataError(
                    f"{path} is one of three split files, and {missing[0]} is missing. Add it, or "
                    "rename the file to have it split."
                )
    return {"train": path}


def write_bad_rows(path: Path, rows: Iterable[BadRow]) -> None:
    """Writes one JSON object a row: file, row, id, reason."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def unlabelled_notice(folder: Path) -> str:
    """One line on the rows without a label that a prepared data set left out, "" without any.

    Args:
        folder: of the prepared data set.
    """
    for path in folder.glob(f"*/{UNLABELLED}"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["rows"]:
            return f"{values['rows']:,} rows without {values['label']!r} left out"
    return ""


def skipped_notice(folder: Path) -> str:
    """One line on the rows that a prepared data set left out, empty if there are none.

    Args:
        folder: of the prepared data set.
    """
    for path in folder.glob(f"*/{SKIPPED_ROWS}"):
        with open(path, encoding="utf-8") as file:
            rows = [BadRow(**json.loads(line)) for line in file]
        # "Atoms 3 and 7 are 0.02 angstrom apart" and the like, with any numbers, is one reason.
        kinds = Counter(re.sub(r"\d+(\.\d+)?", "N", row.reason) for row in rows)
        reasons = [f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN_REASONS)]
        others = ["others"] if len(kinds) > SHOWN_REASONS else []
        return f"{_count(rows)} skipped ({'; '.join(reasons + others)}), all listed in {path}"
    return ""


def _good_rows(
    path: Path, needs_text: bool, seen: dict[str, str], bad: list[BadRow]
) -> Iterator[Record]:
    """The records of a file; adds what is wrong to `bad`, and to `seen` where each id was."""
    is_folder = path.is_dir()
    rows = cif_folder.rows(path, needs_text) if is_folder else read_table(path, needs_text)
    for number, row in enumerate(rows):
        try:
            if is_folder:
                cif_folder.check(row)
            record = record_of_row(row, number, needs_text)
            place = seen.setdefault(record.material_id, f"{path.name} row {number}")
            if place != f"{path.name} row {number}":
                raise DataError(f"its id is that of {place} already")
        except UserError as error:
            bad.append(BadRow(path.name, number, row_name(row), str(error)))
            continue
        yield record


def _count(rows: list[BadRow]) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
