"""Runs and checkpoints in object stores, as local folders that everything else reads.

Descriptions and other small files are downloaded at once, large files when they are needed: see
`remote`. Where a run keeps a ledger, that names the checkpoints, and the small files of each come
from one object, as for the run itself. Elsewhere a checkpoint exists if its `files.json` does;
listings are only used to find candidates.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from clac_jax.checkpoint import files as files_lib
from clac_jax.checkpoint.committed import (
    copy_if_there,
    copy_small,
    is_data,
    make_folder,
    unpack,
)
from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, entries, is_step
from clac_jax.checkpoint.remote import (
    MANIFEST,
    Remote,
    ensure_local,
    verify_stored,
    write_remote,
)
from clac_jax.errors import UserError, WorkdirError, origin_of, set_origin
from clac_jax.files.checksum import is_intact
from clac_jax.files.paths import explain
from clac_jax.files.user_cache import cache_folder
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store, open_store
from clac_jax.stores.url import is_url

__all__ = [
    "LEDGER",
    "ensure_local",
    "fetch_run",
    "is_url",
    "split_name",
    "verify_stored",
]

LEDGER = "run.ledger.json"
"""The object in which a run in a bucket names its checkpoints."""

RUN_FILES = (
    "metrics.jsonl",
    "config.json",
    "steps.journal",
    "starts.jsonl",
    "chain.jsonl",
    "chain.signature.json",
    "data.digests",
    "finished.json",
    "report.png",
    "proofs.jsonl",
)

_COPIES = "checkpoints"
_THREADS = 8
_SELECTOR = re.compile(r"(.+?)@(last|best(?:[=:]\d+)?|(?:step|epoch)[=:]\d+)")


def split_name(url: str) -> tuple[str, str]:
    """The URL of a run or checkpoint without its suffix "@best", "@step=8", ..., and the suffix.

    The folder of a run may have an "@" in its name, as long as no suffix follows.
    """
    found = _SELECTOR.fullmatch(url.strip())
    return (found[1], found[2]) if found else (url.strip(), "")


def fetch_run(url: str) -> Path:
    """Copies the small files of a run or a checkpoint in an object store.

    Large files are fetched by `ensure_local`. What an earlier call has copied is reused; what the
    store lacks by now is removed from the copy.

    Args:
        url: a run, its `checkpoints/`, or one checkpoint; without "@best" and the like.

    Returns:
        The local folder of what the URL names, which messages call by its URL. It is missing if
        the store has nothing there.

    Raises:
        StoreError: the store cannot be read.
        WorkdirError: the copy cannot be written.
    """
    url = url.strip().rstrip("/")
    parent, _, name = url.rpartition("/")
    if is_step(name) and parent.endswith(f"/{CHECKPOINTS}"):
        run = parent.removesuffix(f"/{CHECKPOINTS}")
        folder = _fetched(run, int(name)) / CHECKPOINTS / name
        if not folder.exists():
            _fetched(run)  # so that a message can say which checkpoints there are
        return folder
    if url.endswith(f"/{CHECKPOINTS}"):
        return _fetched(parent) / CHECKPOINTS
    store = open_store(url)
    if store.head(MANIFEST) is not None:  # a checkpoint that was copied out of its run
        root = _place(url)
        with _locked(root, parent):
            _fetch(_Wanted(store, root / name))
        return root / name
    return _fetched(url)


def fetch_run_files(folder: Path, name: str = "") -> None:
    """Copies the rows, the config, the journal and the files of one more folder of a run.

    Does nothing for a run on a disk.

    Args:
        folder: the local folder of the run.
        name: the other folder, such as "eval/1404".

    Raises:
        StoreError: the store cannot be read.
        WorkdirError: the copy cannot be written.
    """
    url = origin_of(folder)
    if url is None or folder.parent != cache_folder() / _COPIES:
        return
    store = open_store(url)
    names = [*RUN_FILES, *(each.name for each in store.list(name) if name)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
        list(pool.map(lambda each: copy_if_there(store, each, folder / each), names))


@dataclass(frozen=True)
class _Ledger:
    """The part of a run's ledger that readers need.

    Attributes:
        crcs: step -> CRC-32 of its manifest, of all committed checkpoints.
        commits: step -> name of the object with its small files.
    """

    crcs: Mapping[int, int]
    commits: Mapping[int, str]


@dataclass(frozen=True)
class _Wanted:
    """A checkpoint that may exist.

    Attributes:
        store: its folder in the store.
        folder: its local folder.
        crc: CRC-32 of its manifest, by the run's ledger; None without one.
        small: reads its small files by name; {} if the run has not committed them together.
        listed: name -> size of its files, as listed; some may be missing.
    """

    store: Store
    folder: Path
    crc: int | None = None
    small: Callable[[], Mapping[str, bytes]] | None = None
    listed: Mapping[str, int] = field(default_factory=dict)


def _fetched(run: str, only: int | None = None) -> Path:
    """The local folder of a run, with one checkpoint or all of them up to date."""
    store, root = open_store(run), _place(run)
    with _locked(root, run):
        ledger = _ledger(store)
        _bring_up_to_date(store.child(CHECKPOINTS), root / CHECKPOINTS, only, store, ledger)
        if only is None and ledger is None and not (root / CHECKPOINTS).exists():
            _bring_up_to_date(store, root, None)  # a `checkpoints/` under a different name
    return root


def _bring_up_to_date(
    store: Store,
    directory: Path,
    only: int | None,
    run: Store | None = None,
    ledger: _Ledger | None = None,
) -> None:
    """Copies the small files of all checkpoints of a `checkpoints/`, or of one.

    Args:
        store: the folder in the store.
        directory: the local folder.
        only: the step of the only checkpoint that is needed; None: all.
        run: the folder of the run.
        ledger: the run's ledger, if it keeps one.
    """
    listed: dict[int, dict[str, int]] = {}
    for each in store.list("" if only is None else f"{only}/"):
        step, _, name = each.name.partition("/")
        if is_step(step):
            listed.setdefault(int(step), {})[name] = each.size
    steps = set(listed if ledger is None else ledger.crcs)
    if only is not None:
        steps = {only} if ledger is None else steps & {only}

    def wanted(step: int) -> _Wanted:
        place, files = (store.child(str(step)), directory / str(step)), listed.get(step, {})
        if run is None or ledger is None:
            return _Wanted(*place, listed=files)
        crc, commit = ledger.crcs[step], ledger.commits.get(step)
        small = None if commit is None else functools.partial(_committed, run, commit, crc)
        return _Wanted(*place, crc, small, files)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
        list(pool.map(_fetch, map(wanted, sorted(steps))))
    for path in entries(epath.Path(directory)):
        if is_step(path.name) and int(path.name) not in steps and only in (None, int(path.name)):
            _discard(Path(path))


def _ledger(store: Store) -> _Ledger | None:
    """The run's ledger, or None."""
    try:
        content = store.get(LEDGER).data
    except NotFoundError:
        return None
    try:
        values = json.loads(content)
        return _Ledger(
            {int(step): int(crc) for step, crc in values["checkpoints"].items()},
            {int(step): str(name) for step, name in values.get("commits", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{store.url}/{LEDGER} is not the ledger of a run. Restore it from a copy, or delete "
            "it; then the checkpoints that have a files.json are those of the run."
        ) from error


def _committed(run: Store, name: str, crc: int) -> Mapping[str, bytes]:
    """The small files of a checkpoint, from the object that the ledger names.

    If that is lost or damaged, they are read under their own names.
    """
    try:
        _, small = unpack(run.get(name).data)
    except (NotFoundError, ValueError):
        return {}
    return small if zlib.crc32(small.get(MANIFEST, b"")) == crc else {}


def _fetch(wanted: _Wanted) -> None:
    """Brings the local folder of a checkpoint up to date; removes it if there is none."""
    store, folder = wanted.store, wanted.folder
    local = _content(folder / MANIFEST)
    small: Mapping[str, bytes] = {}
    if local is not None and _is_committed(wanted, local):
        manifest = local
    else:
        small = {} if wanted.small is None else wanted.small()
        try:
            manifest = small.get(MANIFEST) or store.get(MANIFEST).data
        except NotFoundError:
            _discard(folder)
            return
    if wanted.crc is not None and zlib.crc32(manifest) != wanted.crc:
        # Written, and not committed; or replaced since the ledger was read.
        _discard(folder)
        return
    if folder.exists() and _content(folder / MANIFEST) != manifest:
        _discard(folder)  # another checkpoint of the same step
    make_folder(folder)
    known = {**small, MANIFEST: manifest}
    large = copy_small(store, folder, known, functools.partial(_size_of, wanted))
    if large is None:
        return
    files = files_lib.read_manifest(epath.Path(folder))
    lacks = any(name not in large and not os.path.lexists(folder / name) for name in files)
    if lacks and store.head(MANIFEST) is None:  # removed by its run in the meantime: not damaged
        _discard(folder)
        return
    write_remote(folder, Remote(store.url, large))


def _is_committed(wanted: _Wanted, manifest: bytes) -> bool:
    """Whether a copy with this manifest has all that a commit holds, and all other small files."""
    if wanted.small is None or zlib.crc32(manifest) != wanted.crc:
        return False
    try:
        files = files_lib.read_manifest(epath.Path(wanted.folder))
    except DamagedCheckpointError:
        return False
    return all(
        is_intact(wanted.folder / name, facts)
        for name, facts in files.items()
        if not (is_data(name) and files_lib.is_large(name, facts[0]))
    )


def _size_of(wanted: _Wanted, name: str, size: int) -> int | None:
    """The size of a file in the store; None if it is missing."""
    if wanted.small is not None and not is_data(name):  # a late request may have changed it there
        return size
    found: int | None = wanted.listed.get(name)
    if found is None:
        head = wanted.store.head(name)
        found = head.size if head else None
    return found


def _place(url: str) -> Path:
    """The local folder for a URL."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return cache_folder() / _COPIES / digest


@contextlib.contextmanager
def _locked(root: Path, url: str) -> Iterator[None]:
    """Makes a copy's folder, and keeps other processes from changing it at the same time."""
    make_folder(root)
    set_origin(root, url)
    try:
        lock = open(root / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise WorkdirError(f"Cannot write {root / '.lock'}: {explain(error)}") from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _discard(folder: Path) -> None:
    """Removes a local copy; a rename comes first, so that none is half gone."""
    if not folder.exists():
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        folder.rename(aside)
    except OSError as error:
        raise WorkdirError(f"Cannot remove the copy {folder}: {explain(error)}") from error
    shutil.rmtree(aside, ignore_errors=True)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
