"""Values kept in the user's cache between starts: checked when read, and never required."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder(*names: str) -> Path:
    """A folder of the user's cache: in $CLAC_JAX_CACHE, by default in ~/.cache/clac-jax."""
    cache = os.environ.get("CLAC_JAX_CACHE") or "~/.cache/clac-jax"
    return Path(os.path.expanduser(cache)).joinpath(*names).absolute()


def read_checked(path: Path) -> bytes | None:
    """The content that `write_checked` has written to a file; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    value = content[_DIGEST_BYTES:]
    return value if hashlib.sha256(value).digest() == content[:_DIGEST_BYTES] else None


def write_checked(path: Path, value: bytes) -> None:
    """Writes a file with its checksum, as one; of several processes that do so, the last stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        # Not synced to disk, which takes longer than making some values again: see the checksum.
        temporary.write_bytes(hashlib.sha256(value).digest() + value)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@functools.cache
def code_hash(folders: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """A hash of the modules in folders of this package, and of the versions of libraries."""
    digest = hashlib.sha256()
    for path in sorted(path for name in folders for path in (_PACKAGE / name).rglob("*.py")):
        digest.update(path.read_bytes())
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()
