"""The records of a chain: their form, their digests, and the file that keeps them.

`chain.jsonl` has one line per checkpoint that the run has saved, also of those that were removed
since, and one for the end of the run. A record names the SHA-256 of the record before it, so none
can be changed, removed or moved without a change of all that follow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import WorkdirError
from clac_jax.files.paths import explain

CHAIN_FILE = "chain.jsonl"
FORMAT = 1
CHECKPOINT, END = "checkpoint", "end"  # kinds of records
PORTIONS = ("rows", "steps", "events")
"""Parts of a record on metrics.jsonl, steps.journal and starts.jsonl."""


class DamagedChainError(WorkdirError):
    """A chain holds something that no run has written there."""


@dataclass(frozen=True)
class Entry:
    """A line of a chain.

    Attributes:
        record: what the digest covers.
        stated: the digest as stated in the line.
        marks: name in `PORTIONS` -> 4 hexadecimal digits per row, which tell the rows that differ;
            not covered by the digest.
        line: its number in the file, from 1; 0 if it is in none.
    """

    record: Mapping[str, Any]
    stated: str
    marks: Mapping[str, str] = field(default_factory=dict)
    line: int = 0

    @property
    def digest(self) -> str:
        """The SHA-256 of the record, hexadecimal."""
        return digest_of(self.record)

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.record["step"])

    @property
    def kind(self) -> str:
        """`CHECKPOINT` or `END`."""
        return str(self.record["kind"])

    def to_line(self) -> bytes:
        """The line in the file."""
        content = {"sha256": self.stated, "record": self.record, "marks": self.marks}
        return json.dumps(content).encode() + b"\n"


def new_entry(record: Mapping[str, Any], marks: Mapping[str, str] | None = None) -> Entry:
    """The line of a new record."""
    plain = json.loads(json.dumps(record))
    return Entry(plain, digest_of(plain), marks or {})


def canonical(value: Any) -> bytes:
    """The one form of plain values that is hashed: JSON with sorted keys and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(value: Any) -> str:
    """The SHA-256 of plain values, hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def array_hash(array: np.ndarray) -> str:
    """The SHA-256 of an array, or of a piece of one: of its dtype, shape and bytes in C order."""
    array = np.asarray(array)
    hashed = hashlib.sha256(f"{array.dtype.name} {list(array.shape)}\n".encode())
    hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def joined_hash(pieces: Sequence[str]) -> str:
    """The hash of an array from those of its pieces; of a single piece its own."""
    return pieces[0] if len(pieces) == 1 else digest_of(list(pieces))


def read_chain(path: Path) -> list[Entry]:
    """The lines of a chain, without a last one that was cut off by a kill; empty without a file.

    Digests are not compared.

    Raises:
        DamagedChainError: a line is not a record.
        WorkdirError: the file cannot be read.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    return [
        _entry(line, number, path) for number, line in enumerate(content.split(b"\n")[:-1], start=1)
    ]


def entry_of(content: Any, line: int = 0) -> Entry:
    """The entry with the content of a line.

    Raises:
        ValueError: it is not one; the message follows the name of the line.
    """
    try:
        record, stated, marks = content["record"], content["sha256"], content.get("marks", {})
        sound = (
            record["kind"] in (CHECKPOINT, END)
            and type(record["step"]) is int
            and isinstance(stated, str)
            and isinstance(record["parent"], str | None)
            and all(isinstance(marks.get(name, ""), str) for name in PORTIONS)
            and all(type(record[name][end]) is int for name in PORTIONS for end in ("from", "to"))
            and all(isinstance(record[name]["sha256"], str) for name in PORTIONS)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("is not a record") from error
    if not sound:
        raise ValueError("is not a record")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"has format {record.get('format')!r:.20}, which a different version of clac_jax wrote"
        )
    return Entry(record, stated, marks, line)


def _entry(line: bytes, number: int, path: Path) -> Entry:
    try:
        return entry_of(json.loads(line), number)
    except (ValueError, RecursionError) as error:
        what = str(error) if type(error) is ValueError else "is not a record"
        raise DamagedChainError(
            f"{path}, line {number} {what}. Put back the file that the run has written, or move it "
            "away: a new chain then begins."
        ) from error
