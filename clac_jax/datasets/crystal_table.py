"""Facts about every crystal that a run needs at the start, stored next to the records."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clac_jax.chain.row_digests import fingerprint_of
from clac_jax.datasets.record import Record

FILE = "crystals.npz"


@dataclass(frozen=True)
class CrystalTable:
    """One row per record of a split, in the order of the records.

    Attributes:
        atoms: (num_records,) int32, number of atoms in the cell.
        formula: (num_records,) int32, equal for equal formulas.
        elements: (num_records,) int32, equal for equal sets of elements.
        digest: (num_records,) uint64, hash of the content of the record.
    """

    atoms: np.ndarray
    formula: np.ndarray
    elements: np.ndarray
    digest: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Record]) -> CrystalTable:
        """The table of the records; reads all of them unless the table is stored with them."""
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
        return cls(atoms.astype(np.int32), dense_ids(formulas), dense_ids(elements), digests)

    def take(self, places: np.ndarray | range | Sequence[int]) -> CrystalTable:
        """The rows of the given records, in this order."""
        chosen = np.asarray(places, np.int64)
        return CrystalTable(*(column[chosen] for column in vars(self).values()))

    def fingerprint(self) -> str:
        """Hash of the content and order of the records, 32 hexadecimal digits.

        Equal wherever the same table is prepared: independent of how the files are encoded.
        """
        return fingerprint_of(self.digest)


def hash64(content: bytes) -> int:
    """A 64-bit hash (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def dense_ids(keys: np.ndarray) -> np.ndarray:
    """Renumbers keys from 0 in order of first appearance; (num_keys,) int32."""
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[number]


def write(folder: Path, tables: dict[str, CrystalTable]) -> None:
    """Writes the tables of all splits to the folder of the data set."""
    np.savez(
        folder / FILE,
        **{
            f"{split}/{column}": values
            for split, table in tables.items()
            for column, values in vars(table).items()
        },
    )


def read(folder: Path, split: str) -> CrystalTable:
    """Loads the table of a split.

    Raises:
        OSError, ValueError, KeyError: the file is missing or damaged.
    """
    columns = (f"{split}/{name}" for name in CrystalTable.__dataclass_fields__)
    try:
        with np.load(folder / FILE) as stored:
            return CrystalTable(*(stored[column] for column in columns))
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{FILE}: {error}") from error
