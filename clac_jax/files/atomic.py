"""Atomic writes of small files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clac_jax.errors import WorkdirError
from clac_jax.files.paths import explain


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name in the same folder and renames it.

    A reader sees either the old or the complete new content, even if the program is killed.

    Args:
        path: path of the file; an existing file is replaced. Its mode follows the umask.
        content: bytes, or text to be encoded as UTF-8.

    Raises:
        WorkdirError: the file cannot be written; the old content is unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; its file replaces `path` on exit.

    If the body or the replacement fails, the temporary file is deleted and `path` is unchanged.

    Raises:
        WorkdirError: the body or the replacement raised an `OSError`.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix[:20]}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            sync(path.parent)
    except OSError as error:
        raise WorkdirError(f"Cannot write {path}: {explain(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # missing after the rename
            temporary.unlink()


def check_writable(folder: Path) -> None:
    """Checks that files can be made in a folder, before hours of work whose result goes there.

    Nothing is left behind. Of a folder that does not exist, the nearest one above it is tried.

    Raises:
        WorkdirError: they cannot.
    """
    try:
        place = folder
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise WorkdirError(f"Cannot write to {folder}: {explain(error)}") from error


def sync(path: str | os.PathLike[str]) -> None:
    """Flushes a file or folder to disk.

    Raises:
        OSError: the path cannot be opened or flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
