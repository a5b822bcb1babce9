"""The target of a property model: a number, or a class."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import spglib

from clac_jax.crystals.found_symmetry import SYMMETRY_TOLERANCE, find_symmetry
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import DataError, Record

CRYSTAL_SYSTEM = "crystal system"
CRYSTAL_SYSTEMS = (
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic",
)  # fmt: skip
# The last space group of each crystal system (International Tables A, table 2.1.2.1).
_LAST_SPACE_GROUP = (2, 15, 74, 142, 167, 194, 230)


def label_of(record: Record, name: str) -> float | None:
    """The label of a record; None if it is unknown.

    Args:
        record: one example.
        name: property name, or "crystal system", whose classes are CRYSTAL_SYSTEMS.

    Raises:
        DataError: the symmetry of the crystal cannot be determined.
    """
    if name == CRYSTAL_SYSTEM:
        return float(crystal_system(record))
    value = record.properties.get(name)
    return None if value is None or not math.isfinite(value) else float(value)


def crystal_system(record: Record) -> int:
    """The index of the crystal system in CRYSTAL_SYSTEMS, as determined by spglib.

    Raises:
        DataError: the symmetry cannot be determined.
    """
    crystal = record.crystal()
    arrays = crystal.lattice, crystal.positions, crystal.atomic_numbers.astype(np.int32)
    return _crystal_system(*(array.tobytes() for array in arrays))


@functools.lru_cache(maxsize=200_000)  # takes milliseconds, and every epoch needs it
def _crystal_system(lattice: bytes, positions: bytes, atomic_numbers: bytes) -> int:
    cell = np.frombuffer(lattice).reshape(3, 3)
    fractional = np.frombuffer(positions).reshape(-1, 3) @ np.linalg.inv(cell)
    numbers = np.frombuffer(atomic_numbers, np.int32)
    try:
        data_set = find_symmetry(cell, fractional, numbers)
    except spglib.SpglibError as error:  # if spglib.error.OLD_ERROR_HANDLING is False
        raise DataError(f"the symmetry of its crystal cannot be determined: {error}.") from error
    if data_set is None:
        raise DataError(
            "the symmetry of its crystal cannot be determined with a tolerance of "
            f"{SYMMETRY_TOLERANCE} angstrom."
        )
    return int(np.searchsorted(_LAST_SPACE_GROUP, data_set.number))


class Labelled(Sequence[Record]):
    """The records of a split that have a given label.

    Attributes:
        num_dropped: number of records without the label.
        crystals: crystal table of the remaining records.
    """

    def __init__(self, records: Sequence[Record], name: str):
        """Scans all records once.

        Raises:
            DataError: no record has the label; the message lists the labels that exist.
        """
        self._records = records
        self._name = name
        everywhere = name == CRYSTAL_SYSTEM
        self._indices = [
            index
            for index in range(len(records))
            if everywhere or label_of(records[index], name) is not None
        ]
        self.num_dropped = len(records) - len(self._indices)
        self.crystals = CrystalTable.of(records).take(self._indices)
        if not self._indices:
            known = sorted({key for record in records for key in record.properties})
            raise DataError(
                f"No example has the property {name!r}. Set config.property.name to one of "
                f"{', '.join([*known, CRYSTAL_SYSTEM])}."
            )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        return self._records[self._indices[index]]

    def labels(self) -> Iterable[float]:
        """The label of each record, in order."""
        for record in self:
            label = label_of(record, self._name)
            assert label is not None  # only labelled records are kept
            yield label
