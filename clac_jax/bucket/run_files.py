"""The files of a run besides its checkpoints: rows, config, report, TensorBoard's event files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from clac_jax.bucket.commits import COMMITS
from clac_jax.bucket.lease import Lease
from clac_jax.bucket.ledger import LEDGER
from clac_jax.bucket.publishing import in_threads, put_own
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.files import protocol
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store
from clac_jax.stores.version import Version

# Not put: checkpoints have their own protocol, and Weights & Biases sends its folder itself.
_LEFT_OUT = (CHECKPOINTS, COMMITS, LEDGER, "wandb")

Facts = tuple[int, int]  # size and CRC-32


class RunFiles:
    """Brings the bucket's copies of the run's files after those of the mirror."""

    def __init__(self, mirror: Path, store: Store, lease: Lease):
        """Starts without knowledge of the bucket's copies, so each file is put once.

        Args:
            mirror: local folder of the run.
            store: the workdir in the bucket.
            lease: its lease.
        """
        self._mirror, self._store, self._lease = mirror, store, lease
        self._versions: dict[str, Version] = {}
        self._put: dict[str, Facts] = {}

    def put_changed(self, only: str = "") -> dict[str, Facts]:
        """Puts the files that differ from what was put last.

        Args:
            only: name of the only file to put; "": all.

        Returns:
            Name -> size and CRC-32 of every file in the bucket that this process has put.

        Raises:
            LostWorkdirError, StoreError: see `put_own`.
        """
        contents = {}
        for name in [only] if only else local_files(self._mirror):
            try:
                content = (self._mirror / name).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                continue  # removed in the meantime
            if self._put.get(name) != facts_of(content):
                contents[name] = content

        def put(name: str) -> None:
            protocol.reached("run file")
            known = self._versions.get(name)
            self._versions[name] = put_own(self._store, self._lease, name, contents[name], known)
            self._put[name] = facts_of(contents[name])

        in_threads(put, sorted(contents))
        return dict(self._put)


def local_files(mirror: Path) -> list[str]:
    """Names of the run's files in the mirror, relative to it."""
    found = []
    for folder, folders, files in os.walk(mirror):
        place = Path(folder).relative_to(mirror)
        folders[:] = [each for each in folders if is_run_file((place / each).as_posix())]
        found += [name for each in files if is_run_file(name := (place / each).as_posix())]
    return sorted(found)


def is_run_file(name: str) -> bool:
    """Whether a name, relative to the workdir, is that of a file of the run, or of a folder."""
    parts = name.split("/")
    hidden = any(part in ("", "..") or part.startswith(".") for part in parts)
    return not hidden and parts[0] not in _LEFT_OUT


def fetch(store: Store, mirror: Path, recorded: Mapping[str, Facts]) -> None:
    """Reads the run's files from the bucket into an empty mirror; rows come with a commit.

    A file that a process put shortly before it was killed may be newer than recorded.

    Raises:
        StoreError: the store cannot be reached.
    """

    def get(name: str) -> None:
        try:
            content = store.get(name).data
        except NotFoundError:
            return
        path = mirror / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    in_threads(get, sorted(name for name in recorded if is_run_file(name)))


def facts_of(content: bytes) -> Facts:
    """Size and CRC-32."""
    return len(content), zlib.crc32(content)
