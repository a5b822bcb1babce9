"""The records of a build on the disk, written once in the order of the table and read in any other.

A table may be far larger than the memory, and its rows are shuffled among and within the splits.
Some 70 bytes per record stay in memory: where it lies, and what decides its split and place. With
what sorting takes it is 250 at the peak.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clac_jax.datasets.crystal_table import CrystalTable, hash64, numbered
from clac_jax.datasets.record import Record
from clac_jax.datasets.split import formula_key


class Spool:
    """Serialized records in a temporary file, with a row of facts for each in memory.

    A context manager, which removes its files.
    """

    def __init__(self, folder: Path, serialize: Callable[[dict[str, Any]], bytes]):
        """Opens it.

        Args:
            folder: where its files lie while it is open.
            serialize: an example of TFDS -> its bytes.
        """
        self._paths = folder / "spool.records", folder / "spool.ids"
        self._serialize = serialize
        self._ends, self._id_ends = array("Q"), array("Q")
        self._ids = array("Q")
        self._facts = {
            "file": array("B"),
            "row": array("Q"),
            "has_label": array("B"),
            "formula_key": array("Q"),
        }
        self._atoms = array("I")
        self._formulas, self._elements, self._digests = array("Q"), array("Q"), array("Q")

    def __enter__(self) -> Spool:
        self._files = [open(path, "w+b") for path in self._paths]  # noqa: SIM115  # see __exit__
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path in self._paths:  # first, so that closing cannot fail for want of space
            path.unlink(missing_ok=True)
        for file in self._files:
            try:
                file.close()
            except OSError:
                if error is None:
                    raise

    def __len__(self) -> int:
        return len(self._ends)

    def add(
        self,
        record: Record,
        *,
        reduced_formula: str = "",
        file: int = 0,
        row: int = 0,
        has_label: bool = True,
    ) -> None:
        """Appends a record.

        Args:
            record: what is stored.
            reduced_formula: where the split is by formula.
            file: number of the file that it came from.
            row: its number there.
            has_label: whether the label that is asked for is known.

        Raises:
            OSError: the disk is full.
        """
        name = record.material_id.encode()
        blob = self._serialize(record.to_example())
        for file_object, ends, content in zip(
            self._files, (self._ends, self._id_ends), (blob, name), strict=True
        ):
            file_object.write(content)
            ends.append((ends[-1] if ends else 0) + len(content))
        self._ids.append(hash64(name))
        facts = file, row, has_label, formula_key(reduced_formula)
        for column, value in zip(self._facts.values(), facts, strict=True):
            column.append(value)
        self._atoms.append(len(record.atomic_numbers))
        self._formulas.append(hash64(record.formula.encode()))
        self._elements.append(hash64(bytes(sorted(set(map(int, record.atomic_numbers))))))
        self._digests.append(record.digest())

    def facts(self, name: str) -> np.ndarray:
        """(records,) what `add` was given: "file", "row", "has_label" or "formula_key"."""
        return np.array(self._facts[name])

    def same_ids(self) -> Iterator[tuple[int, int]]:
        """Each record whose id an earlier one has, with the first of these, in order."""
        keys = np.array(self._ids)
        order = np.argsort(keys, kind="stable")
        repeated = keys[order][1:] == keys[order][:-1]
        suspects = np.unique(np.concatenate([order[1:][repeated], order[:-1][repeated]]))
        first: dict[bytes, int] = {}
        for place in suspects.tolist():
            name = self._read(1, place)
            if first.setdefault(name, place) != place:
                yield place, first[name]

    def in_order_of(self, salt: str, places: np.ndarray) -> np.ndarray:
        """The places in TFDS's order of a split: by the md5 of its name and the example's key.

        Args:
            salt: name of the split.
            places: of its records.
        """
        hashed = hashlib.md5(salt.encode())
        keys = np.empty((len(places), 2), ">u8")
        for number, place in enumerate(map(int, places)):
            md5 = hashed.copy()
            # As TFDS does with keys, which may be paths of another operating system.
            md5.update(self._read(1, place).replace(b"\\", b"/"))
            keys[number] = np.frombuffer(md5.digest(), ">u8")
        return places[np.lexsort((keys[:, 1], keys[:, 0]))]

    def size_of(self, places: np.ndarray) -> int:
        """Bytes of some records, serialized."""
        ends = np.array(self._ends)
        return int((np.diff(ends, prepend=ends.dtype.type(0)))[places].sum())

    def read(self, place: int) -> bytes:
        """A record, serialized."""
        return self._read(0, place)

    def table(self, places: np.ndarray) -> CrystalTable:
        """The table of crystals of some records, in this order."""
        return CrystalTable(
            atoms=np.array(self._atoms)[places].astype(np.int32),
            formula=numbered(np.array(self._formulas)[places]),
            elements=numbered(np.array(self._elements)[places]),
            digest=np.array(self._digests)[places],
        )

    def id(self, place: int) -> str:
        """The id of a record."""
        return self._read(1, place).decode()

    def _read(self, which: int, place: int) -> bytes:
        ends = (self._ends, self._id_ends)[which]
        start = ends[place - 1] if place else 0
        file = self._files[which]
        file.seek(start)
        return file.read(ends[place] - start)
