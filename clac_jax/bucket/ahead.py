"""Work that only the mirror has: saved, but not uploaded when its process was killed.

Nothing that was trained is thrown away silently. Checkpoints in the mirror that are newer than all
in the bucket are uploaded if they continue its newest one. If another process has continued the run
since, they are put aside, and a warning says where. If the ledger was removed, and nothing shows
whose they are, the start is refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from etils import epath

from clac_jax.bucket.commits import METRICS, Commit, object_name
from clac_jax.bucket.ledger import LEDGER, Ledger
from clac_jax.bucket.owners import fence_of
from clac_jax.bucket.pins import Pinned, committed_steps
from clac_jax.checkpoint.committed import files_of
from clac_jax.checkpoint.damage import DamagedCheckpointError, RemovedCheckpointError
from clac_jax.checkpoint.files import MANIFEST
from clac_jax.checkpoint.layout import CHECKPOINTS, is_step, step_folders
from clac_jax.checkpoint.remote import ensure_local, read_remote
from clac_jax.checkpoint.removal import discard, finish_interrupted, remove
from clac_jax.errors import WorkdirError, warn
from clac_jax.files.checksum import is_intact
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store

KEPT = ".kept"  # end of the name of the folder next to the mirror


def continues_without_ledger(mirror: Path, store: Store, ledger: Ledger | None) -> bool:
    """Whether the mirror continues what is in a bucket whose ledger somebody has removed.

    It does if it has the newest checkpoint of the bucket, the same save; or any other one, and no
    later holder has saved there.

    Args:
        mirror: the local folder.
        store: the workdir in the bucket.
        ledger: the ledger as it is; only a new one, made after the removal, needs this check.

    Raises:
        WorkdirError: the mirror has newer checkpoints, and nothing shows whether they belong
            to the run in the bucket.
        StoreError: the store cannot be reached.
    """
    if ledger is not None and not ledger.is_new:
        return False
    finish_interrupted(epath.Path(mirror) / CHECKPOINTS)
    there = committed_steps(mirror)
    stored = _manifests(store) if there else {}
    newest = max(stored, default=-1)
    ahead = [
        step for step, each in there.items() if step > newest and is_complete(each, store, step)
    ]
    if not ahead:
        return False
    same = {step for step in stored if step in there and _same(there[step], stored[step])}
    if newest in same:
        return True
    fence = max((int(json.loads(each).get("fence", 0)) for each in stored.values()), default=0)
    if same and fence <= fence_of(mirror):
        return True
    what = f"has no {LEDGER}" + ("" if stored else " and no checkpoints")
    raise WorkdirError(
        f"{store.url} {what}, but its local copy {mirror} has checkpoint {max(ahead)}, which may "
        "be of a different run. To continue from it, copy the files of that folder there, and "
        "start again. To start without it, move or delete the folder."
    )


def continues_newest(
    there: Mapping[int, Pinned], commits: Mapping[int, Commit], removed: Collection[int]
) -> bool:
    """Whether the mirror has the very save that is the newest in the bucket.

    Then no process has saved anything there since, except what `ckpt rm` has removed.

    Args:
        there: step -> checkpoint of the mirror.
        commits: step -> commit of the checkpoints in the bucket.
        removed: steps that somebody has removed on purpose.
    """
    newest = max(commits, default=-1)
    is_there = newest in there and _same(there[newest], commits[newest].manifest)
    return is_there and max(removed, default=-1) <= newest


def drop_removed(mirror: Path, removed: Mapping[int, int]) -> None:
    """Removes the checkpoints of the mirror that `clac-jax ckpt rm` has removed from the bucket.

    Args:
        mirror: the local folder.
        removed: step -> identity of the checkpoint, see `Pinned.identity`.
    """
    directory = epath.Path(mirror) / CHECKPOINTS
    for step, each in committed_steps(mirror).items():
        if removed.get(step) == each.identity:
            for problem in discard(directory, directory / str(step)):
                warn(problem)


def put_aside(mirror: Path, checkpoints: Mapping[int, Pinned]) -> None:
    """Moves checkpoints out of the mirror that another process has overtaken, and says so.

    Args:
        mirror: the local folder.
        checkpoints: step -> checkpoint of the mirror.

    Raises:
        OSError: they cannot be moved.
        StoreError: the store cannot be reached.
    """
    place, moved = kept_folder(mirror), []
    for step, each in checkpoints.items():
        try:
            ensure_local(each.folder)  # parts of other processes
        except (DamagedCheckpointError, RemovedCheckpointError):
            continue  # deleted by the later holder: not complete
        target = place / CHECKPOINTS / str(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(target)
        os.rename(each.folder, target)
        moved.append(step)
    if not moved:
        return
    for name in (METRICS, "config.json"):
        if (mirror / name).is_file():
            shutil.copyfile(mirror / name, place / name)
    warn(
        f"Checkpoint {max(moved)} of this workdir was saved on this machine and never uploaded, "
        "and another process has continued the run from an older one since. It is kept in "
        f"{place}: start a run with another --workdir and --config.resume_from={place}, or delete "
        "the folder."
    )


def remove_overtaken(mirror: Path, newest: int) -> None:
    """Removes checkpoints that were put aside once the run in the bucket has passed their steps."""
    place = kept_folder(mirror)
    steps = step_folders(epath.Path(place) / CHECKPOINTS)
    if not steps or max(steps) > newest:
        return
    warn(f"{place} is removed: the run has passed step {max(steps)}.")
    remove(place)


def kept_folder(mirror: Path) -> Path:
    """The folder for checkpoints that are put aside."""
    return mirror.with_name(f"{mirror.name}{KEPT}")


def is_restorable(checkpoint: Pinned) -> bool:
    """Whether all files are what they should be, or will be downloaded when they are needed."""
    elsewhere = _elsewhere(checkpoint)
    return all(
        is_intact(checkpoint.folder / name, facts)
        or (name in elsewhere and not os.path.lexists(checkpoint.folder / name))
        for name, facts in files_of(checkpoint.manifest).items()
    )


def is_complete(checkpoint: Pinned, store: Store, step: int) -> bool:
    """Whether all files are what they should be, here or in the bucket.

    Args:
        checkpoint: a checkpoint of the mirror.
        store: the workdir in the bucket.
        step: its step.
    """
    if not is_restorable(checkpoint):
        return False
    for name, size in _elsewhere(checkpoint).items():
        if not os.path.lexists(checkpoint.folder / name):
            found = store.head(object_name(step, name))
            if found is None or found.size != size:
                return False
    return True


def _elsewhere(checkpoint: Pinned) -> dict[str, int]:
    remote = read_remote(checkpoint.folder)
    return {} if remote is None else {name: size for name, (size, _) in remote.files.items()}


def _same(checkpoint: Pinned, manifest: bytes) -> bool:
    """Whether they are one save: the names of data files are random."""
    return files_of(checkpoint.manifest) == files_of(manifest)


def _manifests(store: Store) -> dict[int, bytes]:
    """Step -> content of `files.json` of the checkpoints in the bucket, by listing."""
    found = {}
    for listed in store.list(CHECKPOINTS):
        _, _, rest = listed.name.partition("/")
        step, _, name = rest.partition("/")
        if name != MANIFEST or not is_step(step):
            continue
        try:
            manifest = store.get(listed.name).data
            files_of(manifest)
        except (NotFoundError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found[int(step)] = manifest
    return found
