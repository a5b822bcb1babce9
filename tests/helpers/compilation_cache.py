"""JAX's compilation cache for the tests, kept between runs in the cache of pytest."""

import tempfile
import time
import zlib
from pathlib import Path

MAX_DAYS = 14
_CHECKED = "checked"


def open_cache(config):
    """The cache's folder: `.pytest_cache/d/programs`; without pytest's cache, one for this run.

    The name of an entry is a hash of the program, of the compiler's version and of its options, so
    a changed program is compiled again. `pytest --cache-clear` empties the cache.
    """
    cache = getattr(config, "cache", None)
    if cache is None:
        folder = tempfile.TemporaryDirectory(prefix="compilation_cache_")
        config.add_cleanup(folder.cleanup)
        return folder.name
    folder = Path(cache.mkdir("programs"))
    remove_useless(folder)
    return str(folder)


def remove_useless(folder):
    """Removes old entries, and those that a killed process has left unfinished.

    JAX writes them in place, and replaces none: a damaged one would be reported by every later run.
    """
    stamp, now = folder / _CHECKED, time.time()
    last = stamp.stat().st_mtime if stamp.exists() else 0.0
    stamp.touch()
    for entry in folder.glob("*-cache"):
        made = entry.stat().st_mtime
        is_old = now - made > MAX_DAYS * 86400
        if is_old or (made >= last and not _is_complete(entry)):
            entry.unlink(missing_ok=True)


def _is_complete(entry):
    try:
        zlib.decompress(entry.read_bytes())
    except zlib.error:
        return False
    return True
