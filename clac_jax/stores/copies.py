"""Local copies of objects and folders in a bucket."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from clac_jax.errors import WorkdirError, set_origin, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.files.checksum import is_intact
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import explain, local_path
from clac_jax.files.user_cache import cache_folder
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Listed, Store, open_store
from clac_jax.stores.url import is_url

T = TypeVar("T")

CONTENTS = "copy.json"
LOCK_FILE = "copy.lock"
_FILES_AT_A_TIME = 8


def local_copy(url_or_path: str | os.PathLike[str], what: str) -> Path:
    """The local path of a file or folder that may be in a bucket.

    An object, or all objects of a folder, are downloaded into the user's cache. Those whose version
    is that of the last time are not downloaded again if every byte of the copy is still what was
    downloaded: reading it costs a second per GB or so, and what uses the file reads it anyway.
    Local files of objects that no longer exist are deleted. Several processes may call this for one
    URL. Messages name the URL instead of the copy.

    Args:
        url_or_path: a URL of a store, or a local path, which is returned with `~` expanded.
        what: name of the flag or key, for messages.

    Raises:
        NotFoundError: there is neither an object nor a folder of this name.
        StoreError: the store cannot be read.
        PathError: it is not a URL and not a valid path.
        WorkdirError: the cache cannot be written.
    """
    if not is_url(url_or_path):
        return local_path(url_or_path, what)
    store = open_store(os.fspath(url_or_path))
    parent, name = store.parent()
    digest = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    place = cache_folder("objects", digest)
    target = place / (name or store.url.rpartition("/")[2])
    set_origin(target, store.url)
    with _locked(place):
        found = {item.name: item for item in _objects(store, what)}
        copied = _copied(place)
        kept = {key: copied[key] for key in found if copied.get(key, [])[:2] == _facts(found[key])}
        _delete_others(target, copied, found)

        def check(key: str) -> None:
            state = _state(target / key, kept[key])
            if state is _State.DAMAGED:
                warn(f"The copy of {target / key} on this machine is damaged, and replaced.")
            if state is not _State.INTACT:
                del kept[key]

        def download(key: str) -> None:
            path = target / key
            path.parent.mkdir(parents=True, exist_ok=True)
            crc = (store if key else parent).download(key or name, path)
            copied[key] = [*_facts(found[key]), crc]

        _in_threads(check, list(kept))
        if stale := [key for key in found if key not in kept]:
            # Without the stale ones: a killed process may leave some of them as they were.
            _record(place, store.url, kept)
            _in_threads(download, stale)
        _record(place, store.url, {key: copied[key] for key in found})
    return target


def _objects(store: Store, what: str) -> list[Listed]:
    """The object of the URL itself, with an empty name; else those in the folder of that name."""
    parent, name = store.parent()
    if name and (itself := parent.head(name)):
        return [Listed("", itself.size, itself.version)]
    if found := store.list():
        return found
    raise NotFoundError(
        f"{what}: there is neither an object nor a folder {store.url}. Check the name."
    )


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with open(place / LOCK_FILE, "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise WorkdirError(
            f"Cannot write to the cache {place}: {explain(error)} Set CLAC_JAX_CACHE to a folder "
            "that can be written."
        ) from error


def _copied(place: Path) -> dict[str, Any]:
    try:
        return dict(read_json_object(place / CONTENTS)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # the first time, or damaged: everything is downloaded


def _record(place: Path, url: str, files: dict[str, Any]) -> None:
    content = {"url": url, "files": files}
    write_atomically(place / CONTENTS, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _facts(item: Listed) -> list[Any]:
    return [item.size, item.version.as_json()]


class _State(enum.Enum):
    """The state of a local file, compared with what was downloaded."""

    INTACT = enum.auto()
    DAMAGED = enum.auto()
    ABSENT = enum.auto()


def _state(path: Path, facts: list[Any]) -> _State:
    """Compares a local file with the size and the CRC-32 in the last and first of its facts."""
    if len(facts) < 3 or not path.is_file():  # without a checksum: of an older version
        return _State.ABSENT
    return _State.INTACT if is_intact(path, (facts[0], facts[2])) else _State.DAMAGED


def _delete_others(target: Path, copied: dict[str, Any], found: dict[str, Listed]) -> None:
    """Deletes local files of objects that are gone, and a folder where there is now an object."""
    if "" in found and target.is_dir():
        shutil.rmtree(target)
    for key in copied.keys() - found.keys():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            (target / key).unlink()


def _in_threads(action: Callable[[str], object], names: list[str]) -> None:
    """Calls an action with each name, a few at a time; raises the first error."""
    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        results = [pool.submit(action, name) for name in names]
        try:
            for result in results:
                result.result()
        finally:
            for result in results:
                result.cancel()
