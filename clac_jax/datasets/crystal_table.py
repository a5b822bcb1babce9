"""What a start asks of every crystal, kept beside the records so that none has to be read."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.datasets.record import Record

FILE = "crystals.npz"


@dataclass(frozen=True)
class CrystalTable:
    """A row for each record of a split, in its order.

    Attributes:
        atoms: (records,) int32, of the cell.
        formula: (records,) int32, the same number for the same formula.
        elements: (records,) int32, the same number for the same set of elements.
    """

    atoms: np.ndarray
    formula: np.ndarray
    elements: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Record]) -> CrystalTable:
        """The table of a split; reads all records unless it is stored with them."""
        stored = getattr(records, "crystals", None)
        if stored is not None:
            return stored
        formulas, elements = _Numbers(), _Numbers()
        rows = [
            (
                len(record.atomic_numbers),
                formulas.of(record.formula),
                elements.of(frozenset(map(int, record.atomic_numbers))),
            )
            for record in records
        ]
        return cls(*np.array(rows, np.int32).reshape(-1, 3).T)

    def take(self, places: np.ndarray | range | Sequence[int]) -> CrystalTable:
        """The rows of some records."""
        chosen = np.asarray(places, np.int64)
        return CrystalTable(self.atoms[chosen], self.formula[chosen], self.elements[chosen])


class _Numbers:
    """Numbers keys in the order in which they come."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def of(self, key: Any) -> int:
        return self._known.setdefault(key, len(self._known))


def write(folder: Path, splits: dict[str, Sequence[Record]]) -> None:
    """Writes the tables of a data set's splits into its folder."""
    tables = {split: CrystalTable.of(records) for split, records in splits.items()}
    np.savez(
        folder / FILE,
        **{
            f"{split}/{column}": values
            for split, table in tables.items()
            for column, values in vars(table).items()
        },
    )


def read(folder: Path, split: str) -> CrystalTable:
    """The table of a split.

    Raises:
        OSError, ValueError, KeyError: the file is missing or damaged.
    """
    columns = (f"{split}/{name}" for name in ("atoms", "formula", "elements"))
    try:
        with np.load(folder / FILE) as stored:
            return CrystalTable(*(stored[column] for column in columns))
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{FILE}: {error}") from error
