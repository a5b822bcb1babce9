"""The files of one checkpoint, and the checksums that tell whether they are what was written.

Orbax notices a file that is missing or too short, but reads a flipped byte as a wrong number. So
the last file written into a checkpoint, before the rename that commits it, lists every other one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from clac_jax.errors import UserError

MANIFEST = "files.json"
# Larger files hold arrays, which have checksums of their own: reading a few arrays out of a large
# checkpoint does not read it all.
SMALL_FILE = 1 << 20
_CHUNK = 1 << 24


class DamagedCheckpointError(UserError):
    """A file of a checkpoint is not what was written."""

    def __init__(self, path: Any, what: str):
        super().__init__(
            f"{path} {what}, so its checkpoint cannot be trusted. Use another checkpoint of the "
            "run (`clac-jax ckpt verify` lists which are whole)."
        )
        self.path = path
        self.what = what


def write_manifest(folder: epath.Path) -> None:
    """Writes `files.json` with the size and CRC-32 of every file, and syncs all to the disk.

    Args:
        folder: of a checkpoint that is complete and not yet committed.
    """
    files = {}
    for path in _files(folder):
        files[_relative(path, folder)] = [path.stat().length, _crc32(path)]
        sync(path)
    body = json.dumps(files, sort_keys=True)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"crc32": zlib.crc32(body.encode()), "files": files}))
    for path in (manifest, *_folders(folder)):
        sync(path)


def check_files(folder: epath.Path, every_byte: bool = False) -> None:
    """Compares the files with the manifest: all sizes, and the bytes of the small ones.

    Args:
        folder: of a committed checkpoint.
        every_byte: whether large files are read too.

    Raises:
        DamagedCheckpointError: naming the first file that differs.
    """
    listed = _read_manifest(folder)
    for name, (size, crc) in sorted(listed.items()):
        path = folder / name
        try:
            length = path.stat().length
        except FileNotFoundError as error:
            raise DamagedCheckpointError(path, "is missing") from error
        if length != size:
            raise DamagedCheckpointError(path, f"has {length} bytes instead of {size}")
        if (every_byte or size <= SMALL_FILE) and _crc32(path) != crc:
            raise DamagedCheckpointError(path, "has other bytes than were written")


def total_size(folder: epath.Path) -> int:
    """Bytes of all files of a checkpoint, by its manifest.

    Raises:
        DamagedCheckpointError: the manifest itself is damaged.
    """
    return sum(size for size, _ in _read_manifest(folder).values())


def _read_manifest(folder: epath.Path) -> dict[str, tuple[int, int]]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        files, crc = content["files"], content["crc32"]
    except FileNotFoundError as error:
        raise DamagedCheckpointError(path, "is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(path, "cannot be read") from error
    if zlib.crc32(json.dumps(files, sort_keys=True).encode()) != crc:
        raise DamagedCheckpointError(path, "has other bytes than were written")
    return files


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.name != MANIFEST:
            yield path


def _folders(folder: epath.Path) -> Iterator[epath.Path]:
    yield folder
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _folders(path)


def _relative(path: epath.Path, folder: epath.Path) -> str:
    return str(path)[len(str(folder)) :].lstrip("/")


def _crc32(path: epath.Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def sync(path: epath.Path) -> None:
    """Forces a local file or folder to the disk; remote stores do so themselves."""
    if "://" in str(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
