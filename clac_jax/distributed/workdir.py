"""The folder of a run: created, checked, and locked by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import time
from pathlib import Path

from clac_jax.errors import LostWorkdirError, WorkdirError
from clac_jax.files.paths import explain, local_path

LOCK_FILE = ".lock"


class Workdir:
    """A run's folder, locked while the context lasts.

    Two processes writing to one run would mix their rows and checkpoints, for example if a
    scheduler restarts a job before the old one has ended. The operating system releases the
    lock when the process ends, for whatever reason.
    """

    def __init__(self, folder: str | Path, flag: str = "--workdir", shown: str = ""):
        """Sets the folder, and the flag that names it in messages; nothing is accessed yet.

        Args:
            folder: the folder.
            flag: what the user has given it by.
            shown: how messages name both, if not as "FLAG=FOLDER".

        Raises:
            PathError: it is not a valid name of a local folder.
        """
        self.folder = local_path(folder, flag)
        self._shown = shown or f"{flag}={self.folder}"
        self.is_locked = False  # by the operating system, which some file systems do not support

    def __enter__(self) -> Path:
        """Creates the folder, checks that it is writable, and locks it.

        Raises:
            WorkdirError: it is a file, is not writable, or is locked by a different process.
        """
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_writable(folder)
            self._lock = open(folder / LOCK_FILE, "a+", encoding="utf-8")
        except FileExistsError as error:
            what = "is a file" if folder.is_file() else "is not a folder"
            raise WorkdirError(f"{self._shown} {what}. Name a folder.") from error
        except OSError as error:
            raise WorkdirError(f"Cannot write to {self._shown}: {explain(error)}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_locked = True
        except BlockingIOError as error:
            content = _content(folder / LOCK_FILE) or ""
            holder = content.split(",")[0].strip() or "another process"
            self._lock.close()
            raise WorkdirError(
                f"{self._shown} is in use by {holder}. Wait for it to end, or choose another "
                "folder."
            ) from error
        except OSError:
            pass  # a file system without locks: only the content shows who was last
        try:
            self._lock.truncate(0)
            started = f"{time.time_ns():x}{secrets.token_hex(4)}"  # unique to this start
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}, start {started}\n")
            self._lock.flush()
        except OSError as error:
            self._lock.close()
            raise WorkdirError(f"Cannot write to {self._shown}: {explain(error)}") from error
        return folder

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):  # the disk may be full
            self._lock.close()


class HeldFolder:
    """Detects when a run's folder is no longer the one that this process has locked.

    A folder that is moved takes its lock along, and a second run may start at the old path. The
    content of the lock file identifies the owner of the folder; inode numbers are not stable on
    some network file systems.
    """

    def __init__(self, folder: Path):
        """Stores the content of the folder's lock file; without one, nothing is checked."""
        self._folder = folder
        self._held = _content(folder / LOCK_FILE) or ""
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def check(self) -> None:
        """Reads the lock file again.

        Raises:
            LostWorkdirError: it is gone, or belongs to a different process.
        """
        now = _content(self._folder / LOCK_FILE)
        if now is None or now == self._held:
            return
        if now:
            what = f"is now that of another run ({now.split(',')[0].strip()})"
        elif self._folder.is_dir():
            what = f"is not the folder that this run has locked: its {LOCK_FILE} is gone"
        else:
            what = "was moved or removed while the run was writing to it"
        moved_to = self._moved_to()
        if moved_to:
            advice = (
                f"The folder is now {moved_to}; the run is saved there and stops. Resume it with "
                "that --workdir, or move the folder back."
            )
        else:
            advice = (
                "The run stops and writes nothing there. If the folder was moved, its checkpoints "
                "are where it went: move it back and run the same command again."
            )
        raise LostWorkdirError(f"--workdir={self._folder} {what}. {advice}", moved_to)

    def follow(self, folder: Path) -> None:
        """Sets the new location of the folder that is held."""
        self._folder = folder

    def close(self) -> None:
        """Releases the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _moved_to(self) -> Path | None:
        """The present path of the open folder; None unless on Linux."""
        if self._descriptor is None or not self._held:
            return None
        try:
            folder = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
        except OSError:
            return None
        return folder if _content(folder / LOCK_FILE) == self._held else None


def check_writable(folder: Path) -> None:
    """Writes a file into a folder and removes it.

    Raises:
        OSError: the folder cannot be written to.
    """
    probe = folder / f".write_probe.{os.getpid()}"
    try:
        probe.write_bytes(b"ok")
    finally:
        probe.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    """The content of a lock file: empty if it does not exist, None if that is unknown now."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1000)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:  # too many open files, a network file system that does not answer
        return None
