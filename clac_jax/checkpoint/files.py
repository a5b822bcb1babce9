"""The files of one checkpoint, and the checksums that show whether they are intact.

Orbax notices a file that is missing or too short, but reads a flipped bit as a wrong number. So the
last file written into a checkpoint lists all others with their checksums, and commits it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from clac_jax.checkpoint.damage import (
    DamagedCheckpointError,
    RemovedCheckpointError,
    UnreadableCheckpointError,
)
from clac_jax.checkpoint.remote import (
    MANIFEST,
    REMOTE_FILE,
    Files,
    Remote,
    ensure_local,
    read_remote,
    renew_damaged,
)
from clac_jax.files.atomic import sync, write_atomically
from clac_jax.files.crc import crc32, file_crc32
from clac_jax.files.paths import explain

__all__ = [  # names from below that belong to the files of a checkpoint
    "MANIFEST",
    "DamagedCheckpointError",
    "RemovedCheckpointError",
    "UnreadableCheckpointError",
]

# Larger files hold arrays, which have checksums of their own, so that a few arrays of a large
# checkpoint can be read and verified without reading all of it.
SMALL_FILE = 1 << 20
MAX_JSON_BYTES = 1 << 28  # far more than the description of any checkpoint


def write_manifest(folder: epath.Path, known: Mapping[str, list[int]] | None = None) -> None:
    """Writes `files.json` with the size and CRC-32 of every file, and syncs all files to disk.

    Args:
        folder: folder of a completely written checkpoint; this call commits it.
        known: path in the folder -> size and CRC-32, of files that are on disk already.

    Raises:
        WorkdirError: the file cannot be written.
    """
    files = {**describe_files(Path(folder), except_for=known or {}), **(known or {})}
    body = json.dumps(files, sort_keys=True)
    for path in _folders(folder):
        sync(path)
    content = json.dumps({"crc32": crc32(body.encode()), "files": files})
    write_atomically(Path(folder / MANIFEST), content)


def describe_files(folder: Path, except_for: Collection[str] = ()) -> dict[str, list[int]]:
    """Path in the folder -> size and CRC-32 of every file, which is synced to disk.

    Args:
        folder: a checkpoint or part of one.
        except_for: paths in the folder to leave out.
    """
    files = {}
    for path in _files(epath.Path(folder)):
        name = _relative(path, epath.Path(folder))
        if name not in except_for:
            files[name] = [path.stat().length, file_crc32(path)]
            sync(path)
    return files


def check_files(folder: epath.Path, every_byte: bool = False) -> None:
    """Compares the files with the manifest: all sizes, and the contents of the small ones.

    In a copy from an object store, large files may still be missing; `every_byte` downloads them.

    Args:
        folder: folder of a committed checkpoint.
        every_byte: whether to read the large files, too.

    Raises:
        DamagedCheckpointError: a file differs; the message names the first one.
        UnreadableCheckpointError: permissions, memory or the file system prevent reading; or only
            the local copy was damaged, and has been downloaded again.
        RemovedCheckpointError: it was removed in the meantime.
    """
    with _unless_removed(folder):
        _check_files(folder, every_byte)


@contextlib.contextmanager
def _unless_removed(folder: epath.Path) -> Iterator[None]:
    """Reports apparent damage as a removal if the entire folder is gone."""
    try:
        yield
    except DamagedCheckpointError as error:
        if not os.path.lexists(folder):
            raise RemovedCheckpointError(folder) from error
        raise


def _check_files(folder: epath.Path, every_byte: bool) -> None:
    listed = read_manifest(folder)
    remote = read_remote(folder)
    if remote is not None and every_byte:
        _check_copy(folder, remote, listed)
        return
    for name, (size, crc) in sorted(listed.items()):
        path = folder / name
        if remote is not None and name in remote.files and not os.path.lexists(path):
            stored = remote.files[name][0]
            if stored != size:
                raise DamagedCheckpointError(path, f"has {stored} bytes instead of {size}")
            continue
        with reading(path):
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):  # reading a pipe would block
                raise DamagedCheckpointError(path, "is not a file")
            if found.st_size != size:
                raise DamagedCheckpointError(path, f"has {found.st_size} bytes instead of {size}")
            if (every_byte or size <= SMALL_FILE) and file_crc32(path) != crc:
                raise DamagedCheckpointError(path, "does not hold what was written")


def _check_copy(folder: epath.Path, remote: Remote, listed: Files) -> None:
    """Compares every byte of a copy; what is missing or damaged is downloaded."""
    missing = [name for name in remote.files if not os.path.lexists(folder / name)]
    ensure_local(folder, missing)
    renewed = renew_damaged(folder, listed)
    if renewed:
        raise UnreadableCheckpointError(
            f"The copy of {folder / renewed[0]} on this machine was damaged, and has been "
            "downloaded again. Run the same command again."
        )


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
    """Converts errors of the operating system into those of a checkpoint's file.

    Raises:
        DamagedCheckpointError: the file is missing, or its path does not lead to a file.
        UnreadableCheckpointError: any other error.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(path, "is missing") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise DamagedCheckpointError(path, "is not a file") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedCheckpointError(path, "is a link that leads in a circle") from error
        if error.errno == errno.ENAMETOOLONG:
            raise DamagedCheckpointError(path, "has a name that no file can have") from error
        raise UnreadableCheckpointError(f"Cannot read {path}: {explain(error)}") from error


def read_json(path: epath.Path) -> Any:
    """Parses a JSON file of a checkpoint, whatever it contains.

    Raises:
        DamagedCheckpointError: it is not JSON, not a file, or far too large.
        UnreadableCheckpointError: see `reading`.
    """
    with reading(path):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedCheckpointError(path, "is not a file")
        if found.st_size > MAX_JSON_BYTES:
            raise DamagedCheckpointError(path, f"has {found.st_size:,} bytes")
        content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # includes invalid UTF-8
        raise DamagedCheckpointError(path, "cannot be read") from error


def is_large(name: str, size: int) -> bool:
    """Whether a file holds arrays that are downloaded only when they are needed.

    Args:
        name: name in the manifest.
        size: size in bytes.
    """
    return name.startswith("state/") and size > SMALL_FILE


def total_size(folder: epath.Path) -> int:
    """Total size of a checkpoint's files according to its manifest, bytes.

    Raises:
        DamagedCheckpointError: the manifest itself is damaged.
        RemovedCheckpointError: the checkpoint was removed.
    """
    with _unless_removed(folder):
        return sum(size for size, _ in read_manifest(folder).values())


def read_manifest(folder: epath.Path) -> dict[str, tuple[int, int]]:
    """The files of a checkpoint by name: size in bytes and CRC-32.

    Raises:
        DamagedCheckpointError: the manifest is missing or differs from what was written.
        UnreadableCheckpointError: see `reading`.
    """
    path = folder / MANIFEST
    content = read_json(path)
    try:
        return listed_files(content)
    except ValueError as error:
        raise DamagedCheckpointError(path, str(error)) from error


def listed_files(content: Any) -> dict[str, tuple[int, int]]:
    """The files that the content of a `files.json` lists: name -> size in bytes and CRC-32.

    Raises:
        ValueError: it is not such content, or damaged; the message follows the name of the file.
    """
    try:
        files, crc = content["files"], content["crc32"]
        intact = crc32(json.dumps(files, sort_keys=True).encode()) == crc
        listed = {name: (size, file_crc) for name, (size, file_crc) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("cannot be read") from error
    if not intact:
        raise ValueError("does not hold what was written")
    for name, (size, crc) in listed.items():
        parts = name.split("/")
        outside = name.startswith("/") or ".." in parts or "\0" in name or not name.isprintable()
        if outside or type(size) is not int or type(crc) is not int or size < 0:
            raise ValueError(f"lists {name[:80]!r}, which no checkpoint has")
    return listed


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.name not in (MANIFEST, REMOTE_FILE):
            yield path


def _folders(folder: epath.Path) -> Iterator[epath.Path]:
    yield folder
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _folders(path)


def _relative(path: epath.Path, folder: epath.Path) -> str:
    return str(path)[len(str(folder)) :].lstrip("/")
