"""The rows of metrics.jsonl, steps.journal and starts.jsonl that a record of a chain covers.

Each record covers the rows since the record before it. What is hashed of a row are its values, in a
form that does not change if a later version rewrites the file.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.chain.record import canonical
from clac_jax.journal.record import DTYPE

MARK_DIGITS = 4


@dataclass(frozen=True)
class Portion:
    """Consecutive rows of a file.

    Attributes:
        first: number of rows before them.
        contents: the form of each row that is hashed.
        fields: names of the values, of rows of a journal.
    """

    first: int
    contents: Sequence[bytes]
    fields: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The part of a record on them: {"from", "to", "sha256"}, of a journal also "fields"."""
        result: dict[str, Any] = {"from": self.first, "to": self.first + len(self.contents)}
        result["sha256"] = hashlib.sha256(b"".join(map(_framed, self.contents))).hexdigest()
        return result | ({"fields": list(self.fields)} if self.fields else {})

    @property
    def marks(self) -> str:
        """`MARK_DIGITS` hexadecimal digits per row."""
        return "".join(map(mark_of, self.contents))


def mark_of(content: bytes) -> str:
    """The mark of a row."""
    return f"{zlib.crc32(content) & 0xFFFF:0{MARK_DIGITS}x}"


def line_contents(lines: bytes) -> list[bytes]:
    """The form of complete lines of JSON that is hashed.

    Raises:
        ValueError: a line is not JSON.
    """
    return [canonical(json.loads(line)) for line in lines.split(b"\n")[:-1]]


def row_contents(rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The form of parsed lines that is hashed; equal to that of `line_contents`."""
    return [canonical(row) for row in rows]


FIELDS: tuple[str, ...] = (
    *(name for name in DTYPE.names or () if name not in ("digests", "crc", "present")),
    *(f"digests/{name}" for name in DTYPE["digests"].names or ()),
)
"""Names of the values of a record of a journal that are hashed."""


def step_contents(rows: np.ndarray, fields: Sequence[str] = FIELDS) -> list[bytes]:
    """The form of records of a journal that is hashed.

    Args:
        rows: records, dtype `DTYPE`.
        fields: names of the values, as in `FIELDS`.

    Raises:
        KeyError: this version has no such value.
    """
    columns = [_column(rows, name) for name in fields]
    table = np.concatenate(columns, axis=1) if columns else np.zeros((len(rows), 0), np.uint8)
    return [row.tobytes() for row in table]


def _column(rows: np.ndarray, name: str) -> np.ndarray:
    """(rows, bytes) uint8; a digest is preceded by whether it is present."""
    if name not in FIELDS:
        raise KeyError(name)
    if "/" not in name:
        return _bytes(rows[name])
    digest = name.partition("/")[2]
    number = (DTYPE["digests"].names or ()).index(digest)
    present = (rows["present"] >> np.uint32(number) & np.uint32(1)).astype(np.uint8)[:, None]
    return np.concatenate([present, _bytes(rows["digests"][digest]) * present], axis=1)


def _bytes(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros((0, values[:0].itemsize), np.uint8)
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content
