"""The small files of a checkpoint in one object, by which a run in a bucket commits it."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping


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
        ValueError: it is not such an object, or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            small = {each: archive.read(each) for each in archive.namelist()}
            return int(json.loads(archive.comment)["step"]), small
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
