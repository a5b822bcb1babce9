"""The folder of a run: made, tried, and held by one process at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from clac_jax.errors import UserError

LOCK_FILE = ".lock"


class WorkdirError(UserError):
    """The workdir cannot be used or written to."""

    # Rows may be missing from metrics.jsonl: a checkpoint of this moment would not match them.
    spoils_state = True


class Workdir:
    """A run's folder, held while the context lasts.

    Two processes writing one run would mix its rows and checkpoints, as when a scheduler starts a
    job again before the old one is gone. The lock is the operating system's: it ends with the
    process, however that ends.
    """

    def __init__(self, folder: str | Path):
        """Names the folder; nothing is touched yet."""
        self.folder = Path(folder).expanduser()

    def __enter__(self) -> Path:
        """Makes the folder, tries it and locks it.

        Raises:
            WorkdirError: it is a file, cannot be written, or another process holds it.
        """
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".write_probe"
            probe.write_bytes(b"ok")
            probe.unlink()
            self._lock = open(folder / LOCK_FILE, "a+", encoding="utf-8")
        except FileExistsError as error:
            raise WorkdirError(f"--workdir={folder} is a file. Name a folder.") from error
        except OSError as error:
            raise WorkdirError(
                f"Cannot write to --workdir={folder}: {error.strerror}. Choose another folder, or "
                "make room or permission there."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise WorkdirError(
                f"--workdir={folder} is in use by {holder}. Wait for it to end, or choose another "
                "folder."
            ) from error
        except OSError:
            pass  # a file system without locks: nothing to hold
        else:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._lock.flush()
        return folder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.close()
