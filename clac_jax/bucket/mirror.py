"""The local folder in which a run with a workdir in a bucket works; it may be empty at each start.

The bucket decides. Only if the process that held the workdir last has worked in this very folder,
the folder may be ahead of the bucket, and is kept as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from clac_jax.bucket import run_files
from clac_jax.bucket.commits import METRICS, Commit, files_of, get_rows, object_name
from clac_jax.bucket.lease import Lease
from clac_jax.bucket.ledger import Ledger
from clac_jax.bucket.pins import Pinned, committed_steps, unpin_all
from clac_jax.checkpoint.committed import copy_small
from clac_jax.checkpoint.layout import CHECKPOINTS, DAMAGED, entries, is_step
from clac_jax.checkpoint.remote import (
    Remote,
    is_intact,
    read_remote,
    write_remote,
)
from clac_jax.checkpoint.removal import finish_interrupted
from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain, local_path
from clac_jax.files.user_cache import cache_folder
from clac_jax.stores.store import Store

OWNER = ".lease"  # in the mirror: which holder of the bucket has worked here
DOWNLOAD = ".download"
_NOT_CLEARED = (LOCK_FILE, OWNER, CHECKPOINTS, "wandb")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def mirror_folder(url: str, scratch: str) -> Path:
    """The folder of the mirror of a workdir.

    Args:
        url: the workdir in the bucket.
        scratch: `config.bucket.scratch`; by default it is the user's cache.
    """
    base = local_path(scratch, "config.bucket.scratch") if scratch else cache_folder("runs")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", url.rpartition("/")[2])[:40]
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return (base / f"{name}-{digest}").absolute()


def dead_holders(mirror: Path) -> list[str]:
    """Nonces of holders that have ended: those that worked here, as their lock is now ours."""
    here = [each for each in _owners(mirror) if each.boot == _boot()]
    return [each.nonce for each in here if each.nonce]


def claim(mirror: Path, previous: Ledger | None, new: Ledger) -> None:
    """Records who is about to take the workdir; if it ends before `fill`, the folder still counts.

    Such a start is then the last holder, and has changed nothing here.

    Args:
        mirror: the local folder.
        previous: the ledger before the change; None if there is none.
        new: the ledger with this process as its holder, which may never be written.

    Raises:
        WorkdirError: the folder cannot be written.
    """
    last = [each for each in _owners(mirror) if _is_that_of(each, previous)]
    _write_owners(mirror, [*last[:1], _Owner.of(new, is_filled=bool(last))])


def own(mirror: Path, ledger: Ledger, is_filled: bool) -> None:
    """Records the holder that works here from now on.

    Args:
        mirror: the local folder.
        ledger: the ledger with this process as its holder.
        is_filled: whether the content of the folder is that of the run.
    """
    _write_owners(mirror, [_Owner.of(ledger, is_filled)])


def needed_objects(mirror: Path, previous: Ledger | None) -> set[str]:
    """Names of the objects that checkpoints of the mirror have only in the bucket.

    Other processes have put them there for a checkpoint that may not be committed there yet.

    Args:
        mirror: the local folder.
        previous: the ledger before this process took the workdir; None if there was none.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    if not _is_of(mirror, previous):
        return set()
    finish_interrupted(epath.Path(mirror) / CHECKPOINTS)
    names = set()
    for step, checkpoint in committed_steps(mirror).items():
        remote = read_remote(checkpoint.folder)
        names |= {object_name(step, name) for name in (remote.files if remote else ())}
    return names


def fill(mirror: Path, store: Store, lease: Lease, commits: Mapping[int, Commit]) -> None:
    """Makes the mirror what the bucket is, unless it is ahead of the bucket.

    Args:
        mirror: the local folder.
        store: the workdir in the bucket.
        lease: its lease.
        commits: step -> commit of the checkpoints in the bucket.

    Raises:
        StoreError: the store cannot be reached.
        WorkdirError: the folder cannot be written, or the rows are missing in the bucket.
    """
    try:
        shutil.rmtree(mirror / DOWNLOAD, ignore_errors=True)
        unpin_all(mirror)
        if _is_of(mirror, lease.previous) and _is_ahead(mirror, commits):
            own(mirror, lease.ledger, is_filled=True)
            return
        own(mirror, lease.ledger, is_filled=False)
        kept = _clear(mirror, commits)
        for step, commit in commits.items():
            if step not in kept:
                _download(mirror, store, commit)
        run_files.fetch(store, mirror, lease.ledger.run_files)
        if lease.ledger.rows:  # else those that a tool has copied there
            (mirror / METRICS).write_bytes(get_rows(store, lease.ledger.rows))
        for step in lease.ledger.damaged:  # with nothing else, the run is not a fresh one
            (mirror / CHECKPOINTS / DAMAGED / str(step)).mkdir(parents=True, exist_ok=True)
        own(mirror, lease.ledger, is_filled=True)
    except OSError as error:
        raise WorkdirError(
            f"Cannot write {mirror}, the local copy of {store.url}: {explain(error)} "
            "config.bucket.scratch names another folder."
        ) from error


def _is_ahead(mirror: Path, commits: Mapping[int, Commit]) -> bool:
    """Whether the mirror is intact, and has a checkpoint as new as the newest in the bucket."""
    finish_interrupted(epath.Path(mirror) / CHECKPOINTS)
    there = committed_steps(mirror)
    if not there or max(there) < max(commits, default=0):
        return False
    return all(_is_intact(each) for each in there.values())


def _is_intact(checkpoint: Pinned) -> bool:
    """Whether all files are what they should be, or will be downloaded when they are needed."""
    remote = read_remote(checkpoint.folder)
    elsewhere = remote.files if remote is not None else {}
    return all(
        is_intact(checkpoint.folder / name, facts)
        or (name in elsewhere and not os.path.lexists(checkpoint.folder / name))
        for name, facts in files_of(checkpoint.manifest).items()
    )


def _clear(mirror: Path, commits: Mapping[int, Commit]) -> set[int]:
    """Removes everything but checkpoints that are those of the bucket; returns their steps."""
    there = committed_steps(mirror)
    kept = {
        step
        for step, commit in commits.items()
        if step in there and files_of(there[step].manifest) == commit.files
        if _is_intact(there[step])
    }
    for path in entries(epath.Path(mirror)):
        if path.name not in _NOT_CLEARED:
            _remove(Path(path))
    for path in entries(epath.Path(mirror) / CHECKPOINTS):
        if not (is_step(path.name) and int(path.name) in kept):
            _remove(Path(path))
    return kept


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _download(mirror: Path, store: Store, commit: Commit) -> None:
    """Makes a checkpoint in the mirror, whose large files are downloaded when they are needed.

    A file that the bucket has lost is missing here as well; reading the checkpoint names it.
    """
    folder = mirror / DOWNLOAD / str(commit.step)
    folder.mkdir(parents=True, exist_ok=True)
    stored = store.child(f"{CHECKPOINTS}/{commit.step}")
    if large := copy_small(stored, folder, commit.small):
        write_remote(folder, Remote(stored.url, large))
    (mirror / CHECKPOINTS).mkdir(exist_ok=True)
    os.replace(folder, mirror / CHECKPOINTS / str(commit.step))


def _is_of(mirror: Path, ledger: Ledger | None) -> bool:
    """Whether the process that held the workdir last has worked in this folder."""
    return any(_is_that_of(each, ledger) for each in _owners(mirror))


@dataclass(frozen=True)
class _Owner:
    """A holder that has worked in a mirror, or was about to.

    Attributes:
        nonce: its random number.
        boot: see `_boot`.
        holder: which holder: kept in the ledger after its release, when the nonce is gone.
        is_filled: whether the content of the folder is that of the run.
    """

    nonce: str
    boot: str
    holder: str
    is_filled: bool

    @classmethod
    def of(cls, ledger: Ledger, is_filled: bool) -> _Owner:
        """This process, as the holder in a ledger."""
        return cls(ledger.nonce, _boot(), _holder(ledger), is_filled)


def _is_that_of(owner: _Owner, ledger: Ledger | None) -> bool:
    return ledger is not None and owner.is_filled and owner.holder == _holder(ledger)


def _holder(ledger: Ledger) -> str:
    return f"{ledger.fence} {ledger.started!r} {ledger.holder}"


def _owners(mirror: Path) -> list[_Owner]:
    try:
        values = json.loads((mirror / OWNER).read_text(encoding="utf-8"))
        return [_Owner(**each) for each in values]
    except (OSError, ValueError, TypeError):
        return []


def _write_owners(mirror: Path, owners: list[_Owner]) -> None:
    write_atomically(mirror / OWNER, json.dumps([dataclasses.asdict(each) for each in owners]))


def _boot() -> str:
    """Differs between machines, and between starts of one machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
