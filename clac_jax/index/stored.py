"""Indexes in object stores: made and extended in a local folder, then uploaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.errors import WorkdirError, set_origin
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain, local_path
from clac_jax.files.user_cache import cache_folder
from clac_jax.index.ann import FILE
from clac_jax.index.layout import (
    ANN,
    CONTENTS,
    IndexFolderError,
    checksum_of,
    file_facts,
    is_plain_name,
    read_sealed,
)
from clac_jax.index.start import holds_others, others_in
from clac_jax.stores.errors import ConflictError, NotFoundError
from clac_jax.stores.outputs import require_writable
from clac_jax.stores.store import Store, Version, open_store
from clac_jax.stores.url import is_url


@contextlib.contextmanager
def working_folder(
    target: str | Path, what: str, plan: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """The local folder in which an index is made or changed.

    For a URL it is in the user's cache, where an interrupted command finds its work again, and
    holds the index of the store, if there is one. If the body raises no error, what is new in it is
    uploaded, last `index.json`, and only if no other command has written that in the meantime.

    Args:
        target: path or URL of the index.
        what: name of the flag, for messages, such as "--out".
        plan: plan of the index that is to be made, which finds its interrupted work by it; None: an
            existing index is changed.

    Raises:
        PathError: the path is not valid.
        IndexFolderError: the store has other files there, or another command has written to it.
        StoreError: the store cannot be read or written.
        WorkdirError: the cache cannot be written.
    """
    if not is_url(target):
        yield local_path(target, what)
        return
    store = open_store(str(target))
    require_writable(store)
    key = hashlib.sha256(f"{store.url} {json.dumps(plan, sort_keys=True)}".encode()).hexdigest()
    folder = cache_folder() / "indexes" / key[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot make the folder {folder}: {explain(error)}") from error
    set_origin(folder, store.url)
    present = _download(store, folder)
    if present is None and plan is not None:
        _require_free(store, what)
    yield folder
    if (folder / CONTENTS).exists():
        _upload(store, folder, present)


@dataclass(frozen=True)
class _Present:
    """The index that a store holds: its `index.json`, the version of that, and its files."""

    text: bytes
    version: Version
    files: Collection[str]


def _download(store: Store, folder: Path) -> _Present | None:
    """Makes the folder hold the index of the store; returns what that is.

    An addition that was completed here, and not uploaded, is kept.
    """
    try:
        stored = store.get(CONTENTS)
    except NotFoundError:
        return None
    known = _checksum(folder / CONTENTS)
    write_atomically(folder / f"{CONTENTS}.stored", stored.data)
    contents = read_sealed(folder / f"{CONTENTS}.stored", "an index")
    (folder / f"{CONTENTS}.stored").unlink()
    checksum = checksum_of(contents)
    files = contents.get("files")
    files = files if isinstance(files, dict) else {}
    if known is None or checksum not in known:
        for name, facts in files.items():
            if is_plain_name(name) and not _has(folder / name, facts):
                store.download(name, folder / name)
        write_atomically(folder / CONTENTS, stored.data)
    return _Present(stored.data, stored.version, files.keys())


def _upload(store: Store, folder: Path, present: _Present | None) -> None:
    """Uploads what the store lacks of the index in a folder."""
    files = read_sealed(folder / CONTENTS, "an index")["files"]
    text = (folder / CONTENTS).read_bytes()
    try:
        for name in files:
            if present is None or name not in present.files:
                store.put(name, folder / name, if_absent=True)
        if present is None:
            store.put(CONTENTS, text, if_absent=True)
        elif present.text != text:
            store.put(CONTENTS, text, if_version=present.version)
    except ConflictError as error:
        raise IndexFolderError(
            f"{error} Another command writes an index there, or one that was interrupted has left "
            f"files. If none is running, delete the files that {CONTENTS} does not list; then run "
            "the same command again."
        ) from error
    if (folder / ANN).exists():
        _upload_ann(store, folder)


def _upload_ann(store: Store, folder: Path) -> None:
    """Uploads the approximate index; the old one is not used from here on."""
    try:
        if store.get(ANN).data == (folder / ANN).read_bytes():
            return
    except NotFoundError:
        pass
    store.delete(ANN)
    store.put(FILE, folder / FILE)
    store.put(ANN, folder / ANN)


def _require_free(store: Store, what: str) -> None:
    if others := others_in(each.name for each in store.list()):
        raise holds_others(f"{what}={store.url}", others)


def _checksum(path: Path) -> set[str] | None:
    """Checksums of an index in a folder and of the one that it was extended from."""
    if not path.exists():
        return None
    contents = read_sealed(path, "an index")
    return {checksum_of(contents), *(data.get("base") or "" for data in contents["data"][-1:])}


def _has(path: Path, facts: Any) -> bool:
    """Whether a local file has the size and SHA-256 that an index lists."""
    try:
        return bool(path.stat().st_size == facts["bytes"] and file_facts(path) == facts)
    except OSError:
        return False
