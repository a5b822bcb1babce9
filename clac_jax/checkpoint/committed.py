"""The small files of a checkpoint in a bucket, and the one object by which a run commits them."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath

from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.files import (
    MANIFEST,
    MAX_JSON_BYTES,
    is_large,
    listed_files,
    read_manifest,
)
from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.files.checksum import is_intact
from clac_jax.files.paths import explain
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store

_DATA = re.compile(r"[0-9a-f]{32}")  # TensorStore's names of data files: 128 random bits
_THREADS = 8


def pack(step: int, small: Mapping[str, bytes]) -> bytes:
    """Makes the object.

    Args:
        step: the checkpoint's step.
        small: name in the checkpoint's folder -> content, `files.json` included.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = json.dumps({"step": step}).encode()
        for name, content in sorted(small.items()):
            archive.writestr(name, content)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[int, dict[str, bytes]]:
    """The inverse of `pack`: the step and the small files.

    Raises:
        ValueError: it is not such an object, or damaged, or has other files than its `files.json`
            lists.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return int(json.loads(archive.comment)["step"]), _small_files(archive)
    except (  # what zipfile and its decompressors raise for damaged archives
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError("it does not describe a checkpoint") from error


def files_of(manifest: bytes) -> dict[str, tuple[int, int]]:
    """The files that a `files.json` lists: name -> size and CRC-32.

    Raises:
        ValueError: it is not such a file, or damaged.
    """
    return listed_files(json.loads(manifest))


def is_data(name: str) -> bool:
    """Whether a file of a checkpoint has a random name."""
    return _DATA.fullmatch(name.rpartition("/")[2]) is not None


def _small_files(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Name -> content of the files of a commit, which are those that its `files.json` lists.

    Raises:
        ValueError, KeyError: they are not, in name, size or checksum.
    """
    if archive.getinfo(MANIFEST).file_size > MAX_JSON_BYTES:
        raise ValueError(f"{MANIFEST} is too large")
    small = {MANIFEST: archive.read(MANIFEST)}
    listed = files_of(small[MANIFEST])
    expected = sorted([MANIFEST, *(each for each in listed if not is_data(each))])
    if sorted(archive.namelist()) != expected:
        raise ValueError("other files than are listed")
    for each in set(expected) - {MANIFEST}:
        if archive.getinfo(each).file_size != listed[each][0]:  # before it is unpacked
            raise ValueError(f"{each} has another size")
        small[each] = archive.read(each)
        if zlib.crc32(small[each]) != listed[each][1]:
            raise ValueError(f"{each} has another content")
    return small


def copy_small(
    store: Store,
    folder: Path,
    small: Mapping[str, bytes],
    size_of: Callable[[str, int], int | None] = lambda name, size: size,
) -> dict[str, tuple[int, int]] | None:
    """Makes a folder a copy of the small files of a checkpoint.

    A file that the store has lost is missing in the copy as well; reading the checkpoint names it.

    Args:
        store: the checkpoint's folder in the store.
        folder: the local folder; intact files in it are kept.
        small: name -> content of the small files that are known; `files.json` is one of them.
        size_of: called with the name and expected size of a large file; its size in the store.

    Returns:
        The large files, for `remote.json`: size in the store and CRC-32. None if `files.json` is
        damaged.

    Raises:
        StoreError: the store cannot be read.
    """
    write_atomically(folder / MANIFEST, small[MANIFEST])
    try:
        files = read_manifest(epath.Path(folder))
    except DamagedCheckpointError:  # found again by its readers
        return None
    large, missing = {}, []
    for name, (size, crc) in files.items():
        path = folder / name
        if is_large(name, size) and name not in small:
            stored = size_of(name, size)
            if stored is not None:
                large[name] = (stored, crc)
            if stored != size or (path.exists() and path.stat().st_size != size):
                path.unlink(missing_ok=True)
        elif not is_intact(path, (size, crc)):
            missing.append(name)

    def copy(name: str) -> None:
        if name in small:
            make_folder((folder / name).parent)
            write_atomically(folder / name, small[name])
        else:
            copy_if_there(store, name, folder / name)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
        list(pool.map(copy, missing))
    return large


def copy_if_there(store: Store, name: str, path: Path) -> None:
    """Downloads an object; if it does not exist, the local file is removed."""
    make_folder(path.parent)
    try:
        with replacing(path) as temporary:
            store.download(name, temporary)
    except NotFoundError:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents.

    Raises:
        WorkdirError: that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot make the folder {folder}: {explain(error)}") from error
