"""`chain.jsonl`: written by the first process of a run, a record per save."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clac_jax.chain.portions import FIELDS, Portion, line_contents, step_contents
from clac_jax.chain.record import (
    CHAIN_FILE,
    CHECKPOINT,
    END,
    FORMAT,
    PORTIONS,
    Entry,
    new_entry,
    read_chain,
)
from clac_jax.errors import WorkdirError, warn
from clac_jax.files.appended import AppendedFile, rename_away
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.journal.journal_file import STARTS_FILE, STEPS_FILE
from clac_jax.journal.record import DTYPE, header

METRICS_FILE = "metrics.jsonl"
FILES = dict(zip(PORTIONS, (METRICS_FILE, STEPS_FILE, STARTS_FILE), strict=True))
"""Part of a record -> the file that it covers."""
REPORT_FILE, FINISHED_FILE = "report.png", "finished.json"

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a start of a run has resumed from.

    Attributes:
        step: its step; 0 for a fresh run.
        record: its record; None if it has none.
        origin: `run` and `step` of a checkpoint of another run, or of one without a record: then
            `run` is None. None otherwise.
    """

    step: int = 0
    record: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] | None = None


class Chain(Protocol):
    """The interface of the checkpoints of a run to its chain."""

    def sizes(self) -> Sizes:
        """The present sizes of the run's files: what a save that begins now covers.

        Raises:
            WorkdirError: one cannot be read.
        """

    def extend(self, sizes: Sizes, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The record of a checkpoint, which is on disk before the checkpoint is committed.

        Args:
            sizes: those of the files when the save began.
            content: what the record says of the checkpoint itself.

        Raises:
            WorkdirError: the record cannot be written.
        """


class NoChain:
    """The chain of checkpoints that do not belong to a run in progress."""

    def sizes(self) -> Sizes:
        """Empty."""
        return {}

    def extend(self, sizes: Sizes, content: Mapping[str, Any]) -> None:
        """Does nothing."""
        del sizes, content


class ChainFile:
    """Writes the chain of a run, each checkpoint once, however often the run is started."""

    def __init__(self, workdir: Path, parent: Parent, facts: Mapping[str, Any], resumed: bool):
        """Opens the file, and drops the records of checkpoints that the run does not have any more.

        The files that it covers must be open already, so that they have been cut back.

        Args:
            workdir: the run's workdir.
            parent: the checkpoint that the run resumes from.
            facts: plain values on this start of the program, for each of its records.
            resumed: whether the existing file belongs to this run; if not, it is renamed.

        Raises:
            DamagedChainError: the file holds something else.
            WorkdirError: a file cannot be read or written.
        """
        self._workdir, self._facts = workdir, dict(facts)
        path = workdir / CHAIN_FILE
        if not resumed:
            rename_away(path)
        kept = _cut_back(read_chain(path), parent, path)
        write_atomically(path, b"".join(entry.to_line() for entry in kept))
        self._file = AppendedFile(path, "records")
        self._last = kept[-1] if kept else None
        self._origin: Mapping[str, Any] | None = None
        self._parent = self._last.digest if self._last else None
        if not kept and parent.origin:
            self._origin = parent.origin
            self._parent = new_entry(parent.record).digest if parent.record else None
        self._pending: tuple[Any, Entry] | None = None
        self._covered = {
            name: _Covered.up_to(
                workdir / file, self._last.record[name]["to"] if self._last else 0, name == "steps"
            )
            for name, file in FILES.items()
        }

    def sizes(self) -> Sizes:
        """See `Chain`."""
        return {name: _size(self._workdir / file) for name, file in FILES.items()}

    def extend(self, sizes: Sizes, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Chain`; a save that is tried again has the same record."""
        key = (dict(sizes), dict(content))
        if self._pending is not None and self._pending[0] == key:
            return self._pending[1].record
        portions = {
            name: covered.next(self._workdir / FILES[name], sizes[name])
            for name, covered in self._covered.items()
        }
        record = {
            "format": FORMAT,
            "kind": CHECKPOINT,
            "parent": self._parent,
            **({"origin": self._origin} if self._origin else {}),
            **self._facts,
            **content,
            **{name: portion.to_json() for name, portion in portions.items()},
        }
        entry = new_entry(record, {name: portion.marks for name, portion in portions.items()})
        self._file.append(entry.to_line())
        self._file.sync()
        for name, covered in self._covered.items():
            covered.advance(portions[name], sizes[name])
        self._pending, self._parent, self._origin = (key, entry), entry.digest, None
        return entry.record

    def sync(self) -> None:
        """Does nothing: every record is on disk already."""

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir; the open file was moved with it."""
        self._workdir = workdir
        self._file.follow(workdir)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def end_chain(workdir: Path, step: int) -> None:
    """Appends the record of the end of a run, which covers the remaining rows and the report.

    Does nothing for a run without a chain.

    Raises:
        WorkdirError: a file cannot be read or written.
    """
    path = workdir / CHAIN_FILE
    entries = [entry for entry in read_chain(path) if entry.kind != END]
    if not entries:
        return
    last = entries[-1].record
    portions = {}
    for name, file in FILES.items():
        covered = _Covered.up_to(workdir / file, last[name]["to"], name == "steps")
        portions[name] = covered.next(workdir / file, _size(workdir / file))
    record = {
        "format": FORMAT,
        "kind": END,
        "step": step,
        "parent": entries[-1].digest,
        **{name: portion.to_json() for name, portion in portions.items()},
        "report": file_hash(workdir / REPORT_FILE),
        "finished": file_hash(workdir / FINISHED_FILE),
    }
    entries.append(new_entry(record, {name: each.marks for name, each in portions.items()}))
    write_atomically(path, b"".join(entry.to_line() for entry in entries))


def file_hash(path: Path) -> str | None:
    """The SHA-256 of a small file, hexadecimal; None if it does not exist.

    Raises:
        WorkdirError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error


@dataclass
class _Covered:
    """The part of a file that the records cover.

    Attributes:
        rows: number of rows.
        offset: their end in the file, bytes.
        contents: the form of rows that is hashed, from their bytes.
        fields: see `Portion`.
    """

    rows: int
    offset: int
    contents: Callable[[bytes], Sequence[bytes]]
    fields: tuple[str, ...] = field(default=())

    @classmethod
    def up_to(cls, path: Path, rows: int, is_journal: bool) -> _Covered:
        """The part with a number of rows of a file, or all of it."""
        if is_journal:  # opened and checked by this program, so its size says what it has
            found = min(rows, max(0, _size(path) - len(header())) // DTYPE.itemsize)
            offset = len(header()) + found * DTYPE.itemsize
            return cls(found, offset, _journal_contents, FIELDS)
        content = _read(path, 0, _size(path))
        lines = content.split(b"\n")[:-1][:rows]
        return cls(len(lines), sum(map(len, lines)) + len(lines), line_contents)

    def next(self, path: Path, size: int) -> Portion:
        """The rows after those that are covered, as far as the file had them at a size."""
        new = _read(path, self.offset, size)
        try:
            return Portion(self.rows, self.contents(new), self.fields)
        except ValueError as error:
            raise WorkdirError(
                f"{path} holds something that the run has not written there ({error}). Do not "
                "change it during a run; start the same command again to resume."
            ) from error

    def advance(self, portion: Portion, size: int) -> None:
        """Covers these rows, too."""
        self.rows += len(portion.contents)
        self.offset = max(size, self.offset)


def _journal_contents(content: bytes) -> list[bytes]:
    count = len(content) // DTYPE.itemsize
    return step_contents(np.frombuffer(content, DTYPE, count=count))


def _cut_back(entries: list[Entry], parent: Parent, path: Path) -> list[Entry]:
    """The records up to the checkpoint that a run resumes from."""
    entries = [entry for entry in entries if entry.kind != END and entry.step <= parent.step]
    if parent.record is None or parent.origin is not None:
        return entries
    own = new_entry(parent.record)
    for number, entry in enumerate(entries):
        if entry.digest == own.digest:
            return entries[: number + 1]
    warn(
        f"{path} has no record of the checkpoint of step {parent.step:,}, so the chain of this run "
        "is incomplete. Put the file back and start again, if you have it."
    )
    return [*(entry for entry in entries if entry.step < parent.step), own]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.exists() else 0
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error


def _read(path: Path, offset: int, end: int) -> bytes:
    if end <= offset:
        return b""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(end - offset)
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
