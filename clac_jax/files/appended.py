"""A file that a run appends to until its end, guarded against being moved or cut short."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from clac_jax.errors import MovedMetricsError, WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain


class AppendedFile:
    """A file that is only ever appended to; if it is moved away, what it held is written again."""

    def __init__(self, path: Path, what: str):
        """Opens the file, or makes it.

        Args:
            path: path of the file.
            what: what it holds, in the plural, for messages: "rows".

        Raises:
            WorkdirError: the file cannot be written.
        """
        self._path, self._what = path, what
        self._lock = threading.Lock()  # a save in a different thread syncs the file
        self._open()

    def append(self, content: bytes) -> None:
        """Appends; what was appended is in the file even if this process is killed.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short; the content is safe.
            WorkdirError: the disk is full.
        """
        with self._lock:
            try:
                before = self._state()
                self._file.write(content)
                self._file.flush()
                self._size = os.fstat(self._file.fileno()).st_size
            except OSError as error:
                raise self._cannot_write(error) from error
            self._stop_unless_there(before)

    def sync(self) -> None:
        """Forces the content to disk.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short.
            WorkdirError: the content cannot be written.
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
            self._file = open(self._path, "ab+")  # noqa: SIM115 (see close)
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
        """Stops the run unless the file is "there"; writes the content again if it is available.

        It is read from the file that is still open, wherever it is now.

        Raises:
            MovedMetricsError: the state of the run can be saved.
            WorkdirError: the content cannot be written.
        """
        if state == "there":
            return
        if state == "cut short":
            self._size = os.fstat(self._file.fileno()).st_size
            raise MovedMetricsError(
                f"{self._path} was cut short while the run was writing to it, and {self._what} are "
                "gone. Do not change it during a run; start the same command again to resume."
            )
        if not self._path.parent.is_dir():  # the open file still has the content
            raise MovedMetricsError(
                f"{self._path.parent} was moved or removed while the run was writing to it."
            )
        try:
            self._file.seek(0)
            content = self._file.read()
            self._file.close()
        except (OSError, ValueError) as error:
            raise WorkdirError(
                f"{self._path} was removed or moved during the run, and its {self._what} cannot be "
                "read any more. Put the file back and start again."
            ) from error
        other = rename_away(self._path)
        write_atomically(self._path, content)
        self._open()
        kept = f" What was in its place is now {other.name}." if other else ""
        raise MovedMetricsError(
            f"{self._path} was removed, moved or replaced while the run was writing to it. Its "
            f"{self._what} were written there again.{kept} Start the same command again to resume."
        )

    def _cannot_write(self, error: OSError) -> WorkdirError:
        return WorkdirError(
            f"Cannot write {self._path}: {explain(error)} The checkpoints in the workdir are "
            "untouched."
        )


def rename_away(path: Path) -> Path | None:
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
