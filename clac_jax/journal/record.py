"""The record of one step, and its binary form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clac_jax.digests.digest import Digest
from clac_jax.errors import WorkdirError

FORMAT = 1
# Digests of a step: of each part of the state after it and of all of it, of the gradient, of the
# terms of the loss, and of the batch.
STATE_PARTS = ("params", "batch_stats", "opt_state", "ema", "counters")
BATCH_PARTS = ("ids", "texts", "crystals")
DIGESTS = (*STATE_PARTS, "total", "gradients", "loss", *BATCH_PARTS)

NOT_FINITE, UNLIKE_COPIES = 1, 2  # flags

_VALUES = (
    ("step", "<u8"),
    ("epoch", "<u4"),
    ("start", "<u4"),
    ("flags", "<u4"),
    ("present", "<u4"),  # bit k: whether there is a digest number k
    ("loss", "<f4"),
    ("grad_norm", "<f4"),
    ("learning_rate", "<f4"),
)
_MAX_HEADER = 1 << 16  # bytes


@dataclass(frozen=True)
class StepRecord:
    """The values that are kept of a step.

    Attributes:
        step: its number: the first step of a run is 1.
        epoch: the epoch that it belongs to, from 0.
        start: number of the start of the program that did it, see `journal_file.Journal.starts`.
        loss: the loss, float32.
        grad_norm: norm of the gradient before clipping, float32.
        learning_rate: the learning rate, float32.
        digests: name in `DIGESTS` -> digest; some may not have been computed.
        flags: a sum of `NOT_FINITE` and `UNLIKE_COPIES`.
    """

    step: int
    epoch: int
    start: int
    loss: float
    grad_norm: float
    learning_rate: float
    digests: Mapping[str, Digest] = field(default_factory=dict)
    flags: int = 0

    def to_bytes(self) -> bytes:
        """The record in the journal, with its checksum."""
        row = np.zeros(1, DTYPE)
        for name, _ in _VALUES:
            if name != "present":
                row[name] = getattr(self, name)
        for number, name in enumerate(DIGESTS):
            if name in self.digests:
                digest = self.digests[name]
                row["digests"][name] = (digest.first, digest.second)
                row["present"] |= 1 << number
        row["crc"] = zlib.crc32(row.tobytes()[:-4])
        return row.tobytes()

    @classmethod
    def from_row(cls, row: np.void) -> StepRecord:
        """The record in a row of `Journal.steps`."""
        values = {name: row[name].item() for name, _ in _VALUES}
        present = values.pop("present")
        digests = {
            name: Digest.of_words(row["digests"][name])
            for number, name in enumerate(DIGESTS)
            if present >> number & 1
        }
        return cls(**values, digests=digests)


def _dtype(values: Any, digests: Any) -> np.dtype[Any]:
    words = [(str(name), "<u4", (2,)) for name in digests]
    pairs = [(str(name), str(kind)) for name, kind in values]
    return np.dtype([*pairs, ("digests", words), ("crc", "<u4")])


DTYPE = _dtype(_VALUES, DIGESTS)
"""One row of `Journal.steps`: the values of a step, `digests`, and the record's CRC-32."""


def header() -> bytes:
    """The first line of a journal: the fields of a record."""
    facts = {"journal": FORMAT, "values": _VALUES, "digests": DIGESTS}
    return json.dumps(facts).encode() + b"\n"


class DamagedJournalError(WorkdirError):
    """A journal holds something that no run has written there."""


def parse(content: bytes, name: str) -> np.ndarray:
    """(records,) the rows of a journal, with dtype `DTYPE`.

    Records at the end that are incomplete or damaged are dropped: a kill or a loss of power has cut
    them off. A journal of a different version is converted; what it lacks is zero, or not present.

    Args:
        content: the file.
        name: its path, for messages.

    Raises:
        DamagedJournalError: it is not a journal, or a record other than the last ones is damaged.
    """
    line, newline, body = content[:_MAX_HEADER].partition(b"\n")
    if not newline:
        if header().startswith(content):  # cut off by a kill
            return np.zeros(0, DTYPE)
        raise DamagedJournalError(f"{name} is not a journal. {_ADVICE}")
    try:
        facts = json.loads(line)
        number, written = facts["journal"], _dtype(facts["values"], facts["digests"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedJournalError(f"{name} is not a journal. {_ADVICE}") from error
    if number != FORMAT:
        raise DamagedJournalError(
            f"{name} was written by another version of clac_jax (format {number!r:.40}). Use that "
            "version, or move the file away."
        )
    body = content[len(line) + 1 :]
    rows = np.frombuffer(body, written, count=len(body) // written.itemsize)
    size, view = written.itemsize, memoryview(body)
    sound = np.array(
        [
            zlib.crc32(view[first : first + size - 4]) == crc
            for first, crc in zip(range(0, len(body), size), rows["crc"].tolist(), strict=False)
        ],
        bool,
    )
    count = int(np.flatnonzero(sound)[-1]) + 1 if sound.any() else 0
    if not sound[:count].all():
        wrong = int(np.flatnonzero(~sound)[0])
        raise DamagedJournalError(f"{name}, record {wrong + 1:,} is damaged. {_ADVICE}")
    return _converted(rows[:count])


_ADVICE = (
    "Put back an intact copy of the file. If there is none, move it away: the journal of a run "
    "that is started again then begins at the step from which it resumes."
)


def _converted(rows: np.ndarray) -> np.ndarray:
    """The rows with dtype `DTYPE`."""
    if rows.dtype == DTYPE:
        return rows
    result = np.zeros(len(rows), DTYPE)
    fields = rows.dtype.names or ()
    for name, _ in _VALUES:
        if name != "present" and name in fields:
            result[name] = rows[name]
    written = rows.dtype["digests"].names or ()
    for number, name in enumerate(DIGESTS):
        if name in written:
            result["digests"][name] = rows["digests"][name]
            present = rows["present"] >> written.index(name) & 1
            result["present"] |= present << np.uint32(number)
    size = DTYPE.itemsize
    content = result.tobytes()
    result["crc"] = [
        zlib.crc32(content[first : first + size - 4]) for first in range(0, len(content), size)
    ]
    return result
