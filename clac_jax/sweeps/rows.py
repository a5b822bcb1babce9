"""The validation rows of a trial, as they appear in its `metrics.jsonl`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from clac_jax.errors import WorkdirError
from clac_jax.files.paths import explain
from clac_jax.reporting.rows import Row

_VALIDATION = b'"split": "val"'


class ValidationRows:
    """Reads the validation rows of a run that writes them at the same time, each only once.

    A run that resumes rewrites the file without the rows after its checkpoint, and then writes the
    same rows again, bit for bit; the first ones count.
    """

    def __init__(self, path: Path):
        """Sets the path of a metrics.jsonl, which need not exist yet."""
        self._path = path
        self._file, self._done, self._last = (0, 0), 0, -1

    def new(self) -> list[Row]:
        """The rows since the last call, by step.

        Raises:
            WorkdirError: the file cannot be read, or a row is not JSON or has no step and epoch.
        """
        try:
            with open(self._path, "rb") as file:
                facts = os.fstat(file.fileno())
                if (facts.st_dev, facts.st_ino) != self._file or facts.st_size < self._done:
                    self._file, self._done = (facts.st_dev, facts.st_ino), 0
                file.seek(self._done)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WorkdirError(f"Cannot read {self._path}: {explain(error)}") from error
        complete = content[: content.rfind(b"\n") + 1]
        rows = [self._row(line) for line in complete.splitlines() if _VALIDATION in line]
        self._done += len(complete)
        rows = [row for row in rows if row["step"] > self._last]
        self._last = max([self._last, *(row["step"] for row in rows)])
        return rows

    def _row(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
            if all(type(row[name]) is int and row[name] >= 0 for name in ("step", "epoch")):
                return row
            raise ValueError("not a count")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WorkdirError(
                f"{self._path} has a validation row that cannot be read. Fix or remove that line."
            ) from error
