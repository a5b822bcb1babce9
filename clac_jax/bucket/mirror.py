"""The local folder in which a run with a workdir in a bucket works; it may be empty at each start.

The bucket decides. Only if the run that held the workdir last has worked in this very folder, or
the folder continues what is in the bucket, it may be ahead of the bucket, and is kept: see `ahead`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from clac_jax.bucket import run_files
from clac_jax.bucket.ahead import (
    continues_newest,
    drop_removed,
    is_restorable,
    put_aside,
    remove_overtaken,
)
from clac_jax.bucket.commits import METRICS, Commit, get_rows, object_name
from clac_jax.bucket.lease import Lease
from clac_jax.bucket.owners import OWNER, is_of, own
from clac_jax.bucket.pins import Pinned, committed_steps, unpin_all
from clac_jax.checkpoint.committed import copy_small, files_of
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    DAMAGED,
    REPLACED,
    entries,
    is_step,
    step_folders,
)
from clac_jax.checkpoint.remote import (
    Remote,
    read_remote,
    write_remote,
)
from clac_jax.checkpoint.removal import finish_interrupted, move_away
from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import WorkdirError, warn
from clac_jax.files.paths import explain, local_path
from clac_jax.files.user_cache import cache_folder
from clac_jax.stores.store import Store

DOWNLOAD = ".download"
_NOT_CLEARED = (LOCK_FILE, OWNER, CHECKPOINTS, "wandb")


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


def needed_objects(mirror: Path) -> set[str]:
    """Names of the objects that checkpoints of the mirror have only in the bucket.

    Other processes have put them there for a checkpoint that may not be committed there yet.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    finish_interrupted(epath.Path(mirror) / CHECKPOINTS)
    names = set()
    for step, checkpoint in committed_steps(mirror).items():
        remote = read_remote(checkpoint.folder)
        names |= {object_name(step, name) for name in (remote.files if remote else ())}
    return names


def fill(
    mirror: Path,
    store: Store,
    lease: Lease,
    commits: Mapping[int, Commit],
    continues: bool = False,
) -> None:
    """Makes the mirror what the bucket is, unless it is ahead of the bucket.

    Args:
        mirror: the local folder.
        store: the workdir in the bucket.
        lease: its lease.
        commits: step -> commit of the checkpoints in the bucket.
        continues: whether the mirror is known to continue what is in the bucket.

    Raises:
        StoreError: the store cannot be reached.
        WorkdirError: the folder cannot be written, or the rows are missing in the bucket.
    """
    try:
        shutil.rmtree(mirror / DOWNLOAD, ignore_errors=True)
        unpin_all(mirror)
        finish_interrupted(epath.Path(mirror) / CHECKPOINTS)
        removed = lease.ledger.removed
        drop_removed(mirror, {s: each for s, each in removed.items() if s not in commits})
        remove_overtaken(mirror, max(commits, default=-1))
        if _is_ahead(mirror, lease, commits, continues):
            _repair(mirror, store, commits)
            _add_missing(mirror, store, commits)
            own(mirror, lease.ledger, is_filled=True)
            return
        put_aside(mirror, _newer(mirror, commits))
        own(mirror, lease.ledger, is_filled=False)
        _clear(mirror, commits)
        _add_missing(mirror, store, commits)
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


def _is_ahead(mirror: Path, lease: Lease, commits: Mapping[int, Commit], continues: bool) -> bool:
    """Whether the mirror continues the run, and has a checkpoint as new as those in the bucket."""
    there, newest = committed_steps(mirror), max(commits, default=-1)
    if continues or is_of(mirror, lease.previous):
        return bool(there) and max(there) >= newest
    if not _newer(mirror, commits) or not continues_newest(there, commits, lease.ledger.removed):
        return False
    warn(f"Checkpoint {max(there)} is only in {mirror}; the run continues from it.")
    return True


def _newer(mirror: Path, commits: Mapping[int, Commit]) -> dict[int, Pinned]:
    """The intact checkpoints of the mirror that are newer than all in the bucket."""
    newest = max(commits, default=-1)
    there = committed_steps(mirror)
    return {step: each for step, each in there.items() if step > newest and is_restorable(each)}


def _repair(mirror: Path, store: Store, commits: Mapping[int, Commit]) -> None:
    """Replaces damaged checkpoints by those of the bucket; the run itself finds the others."""
    directory, there = epath.Path(mirror) / CHECKPOINTS, committed_steps(mirror)
    for step, folder in step_folders(directory).items():
        if step in commits and not (step in there and is_restorable(there[step])):
            copy = _download(mirror, store, commits[step])
            move_away(folder, directory / REPLACED)  # the next start puts it back if this is killed
            os.replace(copy, folder)
    finish_interrupted(directory)


def _add_missing(mirror: Path, store: Store, commits: Mapping[int, Commit]) -> None:
    """Adds the checkpoints that only the bucket has.

    The uploader would otherwise take them for checkpoints that the run has removed, and remove them
    from the bucket as well. But a tool may have copied them there, or somebody may have freed space
    here. If the run did remove them, and was killed before the uploader noticed, it does so again.
    """
    for step, commit in commits.items():
        folder = mirror / CHECKPOINTS / str(step)
        if not os.path.lexists(folder):
            copy = _download(mirror, store, commit)
            folder.parent.mkdir(exist_ok=True)
            os.replace(copy, folder)


def _clear(mirror: Path, commits: Mapping[int, Commit]) -> None:
    """Removes everything but checkpoints that are those of the bucket."""
    there = committed_steps(mirror)
    kept = {
        step
        for step, commit in commits.items()
        if step in there and files_of(there[step].manifest) == commit.files
        if is_restorable(there[step])
    }
    for path in entries(epath.Path(mirror)):
        if path.name not in _NOT_CLEARED:
            _remove(Path(path))
    for path in entries(epath.Path(mirror) / CHECKPOINTS):
        if not (is_step(path.name) and int(path.name) in kept):
            _remove(Path(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _download(mirror: Path, store: Store, commit: Commit) -> Path:
    """Makes a folder with a checkpoint, whose large files are downloaded when they are needed.

    A file that the bucket has lost is missing here as well; reading the checkpoint names it.
    """
    folder = mirror / DOWNLOAD / str(commit.step)
    folder.mkdir(parents=True, exist_ok=True)
    stored = store.child(f"{CHECKPOINTS}/{commit.step}")
    if large := copy_small(stored, folder, commit.small):
        write_remote(folder, Remote(stored.url, large))
    return folder
