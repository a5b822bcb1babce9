"""Base class of the builders that read a table of the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.datasets import cif_folder
from clac_jax.datasets.bad_rows import BadRow, BadRows, BadRowsError, bad_row
from clac_jax.datasets.builder import LEFT_OUT, RecordBuilder
from clac_jax.datasets.options import DEFAULTS, TableOptions
from clac_jax.datasets.readers import read_table
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.datasets.rows import record_of_row, row_name
from clac_jax.datasets.split import SPLITS, split_by_formula, split_by_row
from clac_jax.datasets.spool import Spool
from clac_jax.errors import UserError, counted

# Split -> suffix of its file in the public data set.
SIBLINGS = {"train": "_train", "validation": "_val", "test": "_test"}
SKIPPED_ROWS = "skipped_rows.jsonl"
FORMULA_MISMATCHES = "formula_mismatches.jsonl"
MAX_KNOWN = 1000
"""Largest number of property names kept for a message, as every row may have new ones."""

# Unforeseen errors while a row is converted. Errors of the disk and of memory are not included, as
# the row does not cause them.
_ERRORS_OF_A_ROW = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class TableBuilder(RecordBuilder, skip_registration=True):
    """Crystals from a table of the user; subclasses set the required columns."""

    needs_text = True

    def __init__(self, *, path: str | Path, options: TableOptions = DEFAULTS, **kwargs: Any):
        """Initializes the builder; nothing is read yet.

        Args:
            path: parquet, csv, jsonl or json file, see `split_files`; or a folder of CIF files with
                a table of their texts, see `cif_folder`.
            options: options of the table.
            kwargs: arguments of `RecordBuilder`.
        """
        self._path = Path(path)
        self._options = options
        super().__init__(**kwargs)

    def fill(self, spool: Spool) -> np.ndarray:
        """Adds the good rows of the file, or of the three split files, to the spool.

        Returns:
            (num_records,) int8 index into SPLITS of each record, or LEFT_OUT.

        Raises:
            DataError: a file is missing or cannot be read, or a split would be empty.
            BadRowsError: there are bad rows, and the options do not allow skipping them.
        """
        files = split_files(self._path)
        names = [path.name for path in files.values()]
        bad = BadRows(self._next_to_splits(SKIPPED_ROWS), names)
        mismatched = BadRows(self._next_to_splits(FORMULA_MISMATCHES), names)
        known: set[str] = set()
        for number, path in enumerate(files.values()):
            for row, record in self._good_rows(path, bad, mismatched):
                if len(known) < MAX_KNOWN:
                    known |= record.properties.keys()
                is_split_by_formula = self._options.split_by == "formula"
                spool.add(
                    record,
                    reduced_formula=record.crystal().formula if is_split_by_formula else "",
                    file=number,
                    row=row,
                    has_label=not self._options.label or self._options.label in record.properties,
                )
        kept = np.ones(len(spool), bool)
        bad.finish(self._repeated_id_rows(spool, names, kept))
        if bad.count and self._options.on_bad_row == "error":
            raise BadRowsError(bad)
        mismatched.finish(())
        self.notices += [
            notice
            for rows, what in ((bad, "skipped"), (mismatched, "used despite its formula sum"))
            if (notice := rows.notice(rows.path, what))
        ]
        self._leave_out_unlabelled(spool, kept, known)
        splits = np.full(len(spool), LEFT_OUT, np.int8)
        splits[kept] = self._assign_splits(spool, kept, len(files) > 1)
        self._check_none_is_empty(splits, bad)
        return splits

    def _check_none_is_empty(self, splits: np.ndarray, bad: BadRows) -> None:
        for place, split in enumerate(SPLITS):
            if not (splits == place).any():
                message = f"{self._path} has no usable row for the {split} split. Add more rows."
                if bad.count:
                    message += f" Skipped: {counted(bad.count, 'row')}, the first: {bad.first[0]}"
                raise DataError(message)

    def _good_rows(
        self, path: Path, bad: BadRows, mismatched: BadRows
    ) -> Iterator[tuple[int, Record]]:
        """Yields (row index, record) for the good rows of a file; adds the others to `bad`."""
        is_folder = path.is_dir()
        rows = cif_folder.rows if is_folder else read_table
        for number, row in enumerate(rows(path, self.needs_text)):
            remarks: list[str] = []
            try:
                if is_folder:
                    cif_folder.check(row)
                record = record_of_row(row, number, self.needs_text, self._options, remarks)
            except UserError as error:
                bad.add(path.name, number, row_name(row), str(error))
            except _ERRORS_OF_A_ROW as error:
                reason = f"it cannot be read ({type(error).__name__}: {error})"
                bad.add(path.name, number, row_name(row), reason)
            else:
                for remark in remarks:
                    mismatched.add(path.name, number, row_name(row), remark)
                yield number, record

    def _repeated_id_rows(
        self, spool: Spool, names: list[str], kept: np.ndarray
    ) -> Iterator[BadRow]:
        """Yields the rows with an id that occurred before, and clears `kept` for them."""
        files, rows = spool.facts("file"), spool.facts("row")
        for place, first in spool.repeated_ids():
            kept[place] = False
            where = f"{names[files[first]]} row {rows[first]}"
            reason = f"its id is also that of {where}"
            yield bad_row(names[files[place]], int(rows[place]), spool.id(place), reason)

    def _leave_out_unlabelled(self, spool: Spool, kept: np.ndarray, known: set[str]) -> None:
        before = int(kept.sum())
        kept &= spool.facts("has_label").astype(bool)
        dropped = before - int(kept.sum())
        if before and dropped == before:
            listed = ", ".join(shortened(name) for name in sorted(known)[:50])
            raise DataError(
                f"{self._path} has no numbers in a column {self._options.label!r}. Set "
                f"config.property.name to one of {listed}."
            )
        if dropped:
            rows = counted(dropped, "row")
            self.notices.append(f"{rows} without {self._options.label!r} skipped")

    def _assign_splits(self, spool: Spool, kept: np.ndarray, is_split: bool) -> np.ndarray:
        if is_split:
            return np.asarray(spool.facts("file")[kept], np.int8)
        if self._options.split_by == "formula":
            return split_by_formula(spool.facts("formula_key")[kept])
        return split_by_row(int(kept.sum()))

    def _next_to_splits(self, name: str) -> Path:
        path = Path(self.data_dir).parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def names_of_siblings(name: str) -> list[str]:
    """Names of the other two files of a data set, if a file may be one of three; see `split_files`.

    Args:
        name: the file's name, without its folder.
    """
    path = Path(name)
    for ending in SIBLINGS.values():
        if path.stem.endswith(ending):
            stem = path.stem.removesuffix(ending)
            names = [path.with_stem(stem + other).name for other in SIBLINGS.values()]
            return [other for other in names if other != name]
    return []


def split_files(path: Path) -> dict[str, Path]:
    """The files of a data set by split.

    If the stem of the path ends in `_train`, `_val` or `_test` and the two sibling files exist, the
    three files are the splits. Otherwise the only file is returned under "train"; its rows are
    split later.

    Raises:
        DataError: one of the three files is missing; splitting the others again could move test
            rows to the train split.
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
                    f"{path} is one of three split files, but {missing[0]} is missing. Add it, or "
                    "rename the file to have its rows split."
                )
    return {"train": path}
