"""Values kept in the user's cache between starts: checked when read, and never required."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
from pathlib import Path

from clac_jax.files.paths import local_path

_PACKAGE = Path(__file__).parents[1]
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder(*names: str) -> Path:
    """A folder of the user's cache of this package: in $CLAC_JAX_CACHE, or ~/.cache/clac_jax.

    Where $XDG_CACHE_HOME is an absolute path, it replaces ~/.cache, as that specification says.

    Raises:
        PathError: $CLAC_JAX_CACHE is not a local folder.
    """
    cache = local_path(_cache(), "CLAC_JAX_CACHE", "it holds copies")
    return cache.joinpath(*names).absolute()


def kept_file(*names: str) -> Path | None:
    """A file of that cache; None for a user without a home folder who has set no other place.

    Raises:
        PathError: $CLAC_JAX_CACHE is not a local folder.
    """
    has_home = os.path.expanduser("~") != "~" or not _cache().startswith("~/")
    return cache_folder(*names) if has_home else None


def _cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    usual = f"{base if os.path.isabs(base) else '~/.cache'}/clac_jax"
    return os.environ.get("CLAC_JAX_CACHE") or usual


def read_checked(path: Path | None) -> bytes | None:
    """The content that `write_checked` has written to a file; None if it is missing or damaged."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    value = content[_DIGEST_BYTES:]
    return value if hashlib.sha256(value).digest() == content[:_DIGEST_BYTES] else None


def write_checked(path: Path | None, value: bytes) -> None:
    """Writes a file with its checksum, as one; of several processes that do so, the last stays.

    Raises:
        OSError: it cannot be written.
    """
    if path is None:
        return
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
