"""`metrics.jsonl`: the rows of a run, each step only once, however often the run restarts."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clac_jax.errors import MovedMetricsError, WorkdirError, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain

# Train-row fields that measure the machine, not the run: they differ between runs with one seed.
TIMING_FIELDS = ("examples_per_second", "data_wait_fraction")
MAX_LINE = 1 << 20  # bytes; a row has a few hundred


class MetricsFile:
    """`metrics.jsonl`: one JSON object per row, each step only once, also after restarts."""

    def __init__(self, path: Path, step: int, validated: bool = True, resumed: bool = True):
        """Opens the file and drops the rows that a resumed run is about to write again.

        Args:
            path: path of the file.
            step: step from which the run resumes; later rows are dropped, and so is a last line cut
                off by a kill. Test rows are dropped, too: the end of the run writes them again.
            validated: whether the validation at `step`, if any, has been done.
            resumed: whether the existing rows belong to this run. If not, its checkpoints are
                missing: the file is renamed and a new one started.

        Raises:
            WorkdirError: the file cannot be read or written.
        """
        self._path = path
        self._lock = threading.Lock()  # a save in a different thread syncs the file
        if not resumed:
            if kept := _rename_away(path):
                warn(
                    f"{path} has rows of an earlier run, but the workdir has no checkpoint of it. "
                    f"They are kept in {kept.name}, and this run writes a new file. If its "
                    "checkpoints were moved, stop this run and put both back."
                )
        elif step and not path.exists():
            warn(
                f"{path} does not exist, so the rows up to step {step} are missing in it and in "
                "the report. Put it back and start again, if you have it."
            )
        rows = read_rows(path)
        last_validation = step if validated else step - 1
        last = {"train": step, "val": last_validation, "test": -1}
        own = [row for row in rows if row["step"] <= last[row["split"]]]
        write_atomically(path, "".join(map(_line, own)))
        self._open()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row.

        Raises:
            MovedMetricsError: the file was removed, moved or truncated; the row is safe.
            WorkdirError: the disk is full.
        """
        with self._lock:
            try:
                before = self._state()
                self._file.write(_line(row))
                self._file.flush()
                self._size = os.fstat(self._file.fileno()).st_size
            except OSError as error:
                raise self._cannot_write(error) from error
            self._stop_unless_there(before)

    def sync(self) -> None:
        """Forces all rows to disk; a checkpoint must never be newer than its rows.

        Raises:
            MovedMetricsError: the file was removed, moved or truncated.
            WorkdirError: the rows cannot be written.
        """
        try:
            with self._lock:
                descriptor = os.dup(self._file.fileno())
            try:
                os.fsync(descriptor)  # outside the lock, as it can take long
            finally:
                os.close(descriptor)
            with self._lock:
                self._stop_unless_there(self._state())
        except OSError as error:
            raise self._cannot_write(error) from error

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir; the open file was moved with it."""
        self._path = workdir / self._path.name

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 (see close)
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._cannot_write(error) from error

    def _state(self) -> str:
        """The state of the file: "there", "moved" or "cut short".

        Inode numbers are not stable on some network file systems, so a different one is ignored if
        the size is right.
        """
        own = os.fstat(self._file.fileno())
        if own.st_size < self._size:
            return "cut short"
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return "moved"
        same = found.st_ino == own.st_ino or found.st_size == own.st_size
        return "there" if same else "moved"

    def _stop_unless_there(self, state: str) -> None:
        """Stops the run unless the file is "there"; writes the rows again if they are available.

        They are read from the file that is still open, wherever it is now.

        Raises:
            MovedMetricsError: the state of the run can be saved.
            WorkdirError: the rows cannot be written.
        """
        if state == "there":
            return
        if state == "cut short":
            self._size = os.fstat(self._file.fileno()).st_size
            raise MovedMetricsError(
                f"{self._path} was cut short while the run was writing to it, and rows are gone. "
                "Do not change it during a run; start the same command again to resume."
            )
        if not self._path.parent.is_dir():  # the open file still has the row
            raise MovedMetricsError(
                f"{self._path.parent} was moved or removed while the run was writing to it."
            )
        try:
            self._file.seek(0)
            rows = self._file.read()
            self._file.close()
        except (OSError, ValueError) as error:
            raise WorkdirError(
                f"{self._path} was removed or moved during the run, and its rows cannot be read "
                "any more. Put the file back and start again."
            ) from error
        other = _rename_away(self._path)
        write_atomically(self._path, rows)
        self._open()
        kept = f" What was in its place is now {other.name}." if other else ""
        raise MovedMetricsError(
            f"{self._path} was removed, moved or replaced while the run was writing to it. Its "
            f"rows were written there again.{kept} Start the same command again to resume."
        )

    def _cannot_write(self, error: OSError) -> WorkdirError:
        return WorkdirError(
            f"Cannot write {self._path}: {explain(error)} The checkpoints in the workdir are "
            "untouched."
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a metrics.jsonl, without a last line that was cut off by a kill.

    Raises:
        WorkdirError: the file cannot be read, or a line other than the last is invalid.
    """
    rows = []
    try:
        if not path.exists():
            return []
        if not path.is_file():
            raise WorkdirError(f"{path} is not a file. Move it away and start again.")
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    break  # the last line
                row = _row(line)
                if isinstance(row, str):
                    raise WorkdirError(f"{path}, line {number} {row}. Fix or remove that line.")
                rows.append(row)
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    return rows


def newest_row(path: Path) -> int:
    """The largest step of all rows of a metrics.jsonl; 0 if there is none.

    Raises:
        WorkdirError: the file cannot be read, or a line other than the last is invalid.
    """
    return max((row["step"] for row in read_rows(path)), default=0)


def _row(line: bytes) -> dict[str, Any] | str:
    """A row, or a description of what is wrong with its line."""
    if len(line) == MAX_LINE:
        return "is longer than any row"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg})"
    except (ValueError, RecursionError):  # not UTF-8, too many digits, deep nesting
        return "is not JSON"
    if not isinstance(row, dict):
        return "is not a row: it has no names"
    if row.get("split") not in ("train", "val", "test"):
        return 'is not a row: "split" is not train, val or test'
    for name in ("step", "epoch"):
        value = row.get(name, 0 if name == "epoch" else None)
        if type(value) is not int or not 0 <= value < 1 << 63:
            return f'is not a row: "{name}" is not an integer'
    return row


def _rename_away(path: Path) -> Path | None:
    """Renames what exists at a path, unless it is an empty file; returns the new path.

    Raises:
        WorkdirError: it cannot be renamed.
    """
    try:
        if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
            return None
        number = 1
        while os.path.lexists(kept := path.with_name(f"{path.stem}-{number}{path.suffix}")):
            number += 1
        os.rename(path, kept)
        return kept
    except OSError as error:
        raise WorkdirError(f"Cannot rename {path}: {explain(error)}") from error


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
