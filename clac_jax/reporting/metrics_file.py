"""`metrics.jsonl`: the rows of a run, each step only once, however often the run restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clac_jax.errors import WorkdirError, warn
from clac_jax.files.appended import AppendedFile, rename_away
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
        if not resumed:
            if kept := rename_away(path):
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
        self._file = AppendedFile(path, "rows")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short; the row is safe.
            WorkdirError: the disk is full.
        """
        self._file.append(_line(row).encode())

    def sync(self) -> None:
        """Forces all rows to disk; a checkpoint must never be newer than its rows.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short.
            WorkdirError: the rows cannot be written.
        """
        self._file.sync()

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir; the open file was moved with it."""
        self._file.follow(workdir)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
