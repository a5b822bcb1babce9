"""Temporary on-disk storage of the records of a build: sequential writes, random reads.

A table may be much larger than memory, and its rows are shuffled among and within the splits. About
70 bytes per record are kept in memory: its offset, and what determines its split and position. The
peak during sorting is 250 bytes per record.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.datasets.crystal_table import CrystalTable, dense_ids, hash64
from clac_jax.datasets.record import Record
from clac_jax.datasets.split import formula_key


class Spool:
    """Serialized records in a temporary file, with a few facts about each in memory.

    A context manager; the files are removed on exit.
    """

    def __init__(self, folder: Path, serialize: Callable[[dict[str, Any]], bytes]):
        """Prepares an empty spool.

        Args:
            folder: folder of the temporary files.
            serialize: converts a TFDS example to bytes.
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

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for path in self._paths:  # before closing, which may fail on a full disk
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
            record: the record to store.
            reduced_formula: reduced formula, if the split is by formula.
            file: index of the file that the record comes from.
            row: index of the row in that file.
            has_label: whether the property to be learned is known.

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
        """(num_records,) argument of `add`: "file", "row", "has_label" or "formula_key"."""
        return np.array(self._facts[name])

    def repeated_ids(self) -> Iterator[tuple[int, int]]:
        """Pairs (index of a record, index of the first record with the same id), in order."""
        keys = np.array(self._ids)
        order = np.argsort(keys, kind="stable")
        repeated = keys[order][1:] == keys[order][:-1]
        suspects = np.unique(np.concatenate([order[1:][repeated], order[:-1][repeated]]))
        first: dict[bytes, int] = {}
        for place in suspects.tolist():
            name = self._read(1, place)
            if first.setdefault(name, place) != place:
                yield place, first[name]

    def tfds_order(self, salt: str, places: np.ndarray) -> np.ndarray:
        """Sorts records as TFDS does: by the MD5 of the name of the split and the example's key.

        Args:
            salt: name of the split.
            places: indices of the records of the split.
        """
        hashed = hashlib.md5(salt.encode())
        keys = np.empty((len(places), 2), ">u8")
        for number, place in enumerate(map(int, places)):
            md5 = hashed.copy()
            # As in TFDS, whose keys may be Windows paths.
            md5.update(self._read(1, place).replace(b"\\", b"/"))
            keys[number] = np.frombuffer(md5.digest(), ">u8")
        return places[np.lexsort((keys[:, 1], keys[:, 0]))]

    def num_bytes(self, places: np.ndarray) -> int:
        """Total size of serialized records, bytes."""
        ends = np.array(self._ends)
        return int((np.diff(ends, prepend=ends.dtype.type(0)))[places].sum())

    def read(self, place: int) -> bytes:
        """A serialized record."""
        return self._read(0, place)

    def table(self, places: np.ndarray) -> CrystalTable:
        """The crystal table of the given records, in this order."""
        return CrystalTable(
            atoms=np.array(self._atoms)[places].astype(np.int32),
            formula=dense_ids(np.array(self._formulas)[places]),
            elements=dense_ids(np.array(self._elements)[places]),
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
