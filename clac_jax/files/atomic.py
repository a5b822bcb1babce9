"""Small files, written completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from clac_jax.errors import WorkdirError
from clac_jax.files.paths import explain


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name beside it and renames that.

    Whoever reads `path` sees the old content or all of the new, whatever ends the program.

    Args:
        path: of the file; replaced if it is there. Its mode follows the umask.
        content: text (UTF-8) or bytes.

    Raises:
        WorkdirError: naming the file, what is wrong and what to do; the old content is still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, whose file takes the place of `path` when the body ends.

    If the body or the replacement fails, the temporary file is removed and `path` is as before.

    Raises:
        WorkdirError: the body or the replacement raised an error of the operating system.
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
        with contextlib.suppress(OSError):  # after the rename it is not there
            temporary.unlink()


def sync(path: str | os.PathLike[str]) -> None:
    """Forces a file or folder to the disk.

    Raises:
        OSError: it cannot be opened or written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
