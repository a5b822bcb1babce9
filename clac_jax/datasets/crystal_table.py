"""What a start asks of every crystal, kept beside the records so that none has to be read."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        digest: (records,) uint64, of the content of the record.
    """

    atoms: np.ndarray
    formula: np.ndarray
    elements: np.ndarray
    digest: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Record]) -> CrystalTable:
        """The table of a split; reads all records unless it is stored with them."""
        stored: CrystalTable | None = getattr(records, "crystals", None)
        if stored is not None:
            return stored
        rows = [
            (
                len(record.atomic_numbers),
                hash64(record.formula.encode()),
                hash64(bytes(sorted(set(map(int, record.atomic_numbers))))),
                record.digest(),
            )
            for record in records
        ]
        atoms, formulas, elements, digests = np.array(rows, np.uint64).reshape(-1, 4).T
        return cls(atoms.astype(np.int32), numbered(formulas), numbered(elements), digests)

    def take(self, places: np.ndarray | range | Sequence[int]) -> CrystalTable:
        """The rows of some records."""
        chosen = np.asarray(places, np.int64)
        return CrystalTable(*(column[chosen] for column in vars(self).values()))

    def fingerprint(self) -> str:
        """Of the content of the records and their order, 32 hexadecimal digits.

        Equal wherever the same table is prepared: it does not depend on the files' encoding.
        """
        return hashlib.sha256(self.digest.astype("<u8").tobytes()).hexdigest()[:32]


def hash64(content: bytes) -> int:
    """An unsigned 64-bit number that is different for different contents, but for bad luck."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def numbered(keys: np.ndarray) -> np.ndarray:
    """(keys,) int32: keys numbered in the order in which they first come."""
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[number]


def write(folder: Path, tables: dict[str, CrystalTable]) -> None:
    """Writes the tables of a data set's splits into its folder."""
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
    columns = (f"{split}/{name}" for name in CrystalTable.__dataclass_fields__)
    try:
        with np.load(folder / FILE) as stored:
            return CrystalTable(*(stored[column] for column in columns))
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{FILE}: {error}") from error
