"""The small files of a checkpoint in one object, by which a run in a bucket commits it."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping

from clac_jax.checkpoint.files import MANIFEST, MAX_JSON_BYTES, listed_files

_DATA = re.compile(r"[0-9a-f]{32}")  # TensorStore's names of data files: 128 random bits


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
