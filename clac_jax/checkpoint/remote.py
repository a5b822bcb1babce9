"""Local folders of checkpoints in object stores whose large files are downloaded when needed.

Such a folder has `remote.json`: the URL of the checkpoint, and the files that may be missing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from clac_jax.checkpoint.damage import (
    DamagedCheckpointError,
    RemovedCheckpointError,
    UnreadableCheckpointError,
)
from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.files.checksum import is_intact
from clac_jax.files.crc import crc32
from clac_jax.files.links import link
from clac_jax.files.paths import explain
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store, StoreOptions, open_store

REMOTE_FILE = "remote.json"
MANIFEST = "files.json"

Files = Mapping[str, tuple[int, int]]
"""Name of a file, relative to the checkpoint's folder -> its size in bytes and its CRC-32."""

LINKED_BYTES = 1 << 20  # larger files are linked rather than downloaded again
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Remote:
    """Where the files of a checkpoint's folder are that it may lack.

    Attributes:
        url: URL of the checkpoint's folder.
        files: those not downloaded with the others: the size that each has in the store, and the
            CRC-32 that it should have.
    """

    url: str
    files: Files = field(default_factory=dict)


def write_remote(folder: Path, remote: Remote) -> None:
    """Writes the `remote.json` of a folder.

    Raises:
        WorkdirError: it cannot be written.
    """
    content = {"url": remote.url, "files": {name: list(f) for name, f in remote.files.items()}}
    write_atomically(folder / REMOTE_FILE, json.dumps(content, sort_keys=True))


def read_remote(folder: os.PathLike[str]) -> Remote | None:
    """Reads the `remote.json` of a folder; None if it has none, so that all its files are local.

    Raises:
        UnreadableCheckpointError: it cannot be read.
    """
    path = Path(folder) / REMOTE_FILE
    try:
        content = json.loads(path.read_bytes())
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in content["files"].items()}
        return Remote(str(content["url"]), files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = explain(error) if isinstance(error, OSError) else "It is not what was written."
        raise UnreadableCheckpointError(
            f"Cannot read {path}: {reason} Delete the folder: it is a copy."
        ) from error


def ensure_local(folder: os.PathLike[str], names: Collection[str] | None = None) -> None:
    """Downloads the missing files of a checkpoint, and compares them with their checksums.

    Does nothing for a folder without `remote.json`.

    Args:
        folder: the local folder of the checkpoint.
        names: the files that are needed, relative to the folder; None: all.

    Raises:
        DamagedCheckpointError: a file in the store is missing or differs from what was written.
        RemovedCheckpointError: the checkpoint is no longer in the store.
        StoreError: the store cannot be read.
        WorkdirError: a file cannot be written.
    """
    remote = read_remote(folder)
    if remote is None:
        return
    place = Path(folder)
    wanted = remote.files.keys() if names is None else set(names) & remote.files.keys()
    missing = [name for name in sorted(wanted) if not os.path.lexists(place / name)]
    if missing:
        _download_all(remote, place, {name: remote.files[name] for name in missing})


def renew_damaged(folder: os.PathLike[str], files: Files) -> list[str]:
    """Downloads again what is wrong in the local copy of a checkpoint.

    Args:
        folder: a folder with `remote.json`.
        files: all files of the checkpoint.

    Returns:
        Names of the files that were downloaded.

    Raises:
        DamagedCheckpointError, RemovedCheckpointError, StoreError, WorkdirError: as for
            `ensure_local`.
    """
    remote, place = read_remote(folder), Path(folder)
    assert remote is not None
    wrong = {name: facts for name, facts in files.items() if not is_intact(place / name, facts)}
    _download_all(remote, place, wrong)
    return list(wrong)


def verify_stored(remote: Remote, files: Files, options: StoreOptions | None = None) -> None:
    """Compares every byte of a checkpoint in its store with the checksums, whatever is local.

    Args:
        remote: where it is.
        files: all its files.
        options: how the store is used.

    Raises:
        DamagedCheckpointError: a file is missing or differs; the message names the first one.
        RemovedCheckpointError: the checkpoint is no longer in the store.
        StoreError: the store cannot be read.
    """
    options = options or StoreOptions()
    store = open_store(remote.url, options)
    for name, (size, crc) in sorted(files.items()):
        try:
            found = _stored_crc(store, name, size)
        except NotFoundError as error:
            raise _gone(store, name) from error
        if found != crc:
            raise DamagedCheckpointError(f"{store.url}/{name}", "does not hold what was written")


def _download_all(remote: Remote, place: Path, files: Files) -> None:
    options = StoreOptions()
    store = open_store(remote.url, options)

    def download(item: tuple[str, tuple[int, int]]) -> None:
        name, (size, crc) = item
        path = place / name
        if size > LINKED_BYTES and _link_copy(place, name, (size, crc)):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"Cannot write {path.parent}: {explain(error)}") from error
        with replacing(path) as temporary:
            try:
                found = store.download(name, temporary)
            except NotFoundError as error:
                raise _gone(store, name) from error
            if found != crc:
                where = f"{store.url}/{name}"
                raise DamagedCheckpointError(where, "does not hold what was written")

    with ThreadPoolExecutor(options.concurrency, thread_name_prefix="download") as pool:
        list(pool.map(download, files.items()))


def _link_copy(place: Path, name: str, facts: tuple[int, int]) -> bool:
    """Links a file that another checkpoint of the run has here: names of data are random."""
    with contextlib.suppress(OSError):  # then it is downloaded
        for other in sorted(place.parent.iterdir()):
            path = other / name
            if other != place and path.is_file() and is_intact(path, facts):
                (place / name).unlink(missing_ok=True)
                link(path, place / name)
                return True
    return False


def _stored_crc(store: Store, name: str, size: int) -> int:
    """CRC-32 of a stored file, read piece by piece."""
    listed = store.head(name)
    if listed is None:
        raise NotFoundError(f"{store.url}/{name} does not exist.")
    if listed.size != size:
        where = f"{store.url}/{name}"
        raise DamagedCheckpointError(where, f"has {listed.size} bytes instead of {size}")
    crc = 0
    for start in range(0, size, _CHUNK):
        end = min(start + _CHUNK, size)
        crc = crc32(store.get(name, start, end).data, crc)
    return crc


def _gone(store: Store, name: str) -> Exception:
    """The error for a file that is not in the store: removed with its checkpoint, or lost."""
    if store.head(MANIFEST) is None:
        return RemovedCheckpointError(store.url)
    return DamagedCheckpointError(f"{store.url}/{name}", "is missing")
