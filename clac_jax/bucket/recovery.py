"""The start in a workdir in a bucket: finds its checkpoints, and cleans up after killed runs."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Collection

from clac_jax.bucket.commits import (
    COMMITS,
    Commit,
    new_commit,
    object_name,
)
from clac_jax.bucket.lease import Lease
from clac_jax.bucket.ledger import Ledger, LedgerError
from clac_jax.bucket.publishing import delete_objects, publish, republish
from clac_jax.bucket.run_files import is_run_file
from clac_jax.checkpoint.committed import files_of, is_data
from clac_jax.checkpoint.files import MANIFEST
from clac_jax.checkpoint.layout import CHECKPOINTS, is_step
from clac_jax.errors import warn
from clac_jax.files import protocol
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store

Warn = Callable[[str], None]


def recover(
    store: Store, lease: Lease, say: Warn = warn, needed: Collection[str] | None = None
) -> dict[int, Commit]:
    """Reads which checkpoints exist, and removes the remains of killed commits and removals.

    Args:
        store: the workdir in the bucket.
        lease: its lease.
        say: called with a sentence about each checkpoint that cannot be used.
        needed: names of objects of checkpoints in the mirror that are still to be committed; None
            if there is no mirror; leftovers of interrupted commits are then kept.

    Returns:
        Step -> commit, for every checkpoint that exists.

    Raises:
        LostWorkdirError: somebody else holds the workdir.
        StoreError: the store cannot be reached.
    """
    commits = _committed(store, lease, say)
    for commit in commits.values():  # they may be half replaced, or written by a late request
        republish(store, lease, commit)
    incomplete = _adopt_copied(store, lease, commits, say)
    finish_removals(store, lease, commits)
    if lease.ledger.is_new:  # all is as a tool has left it
        lease.change(lambda ledger: dataclasses.replace(ledger, is_new=False))
    elif needed is not None:
        _remove_leftovers(store, lease, commits, incomplete, needed)
    return commits


def finish_removals(store: Store, lease: Lease, commits: dict[int, Commit]) -> None:
    """Deletes the objects of checkpoints that the ledger has in `deleting`.

    Args:
        store: the workdir in the bucket.
        lease: its lease.
        commits: step -> commit of the checkpoints that exist, whose objects stay.

    Raises:
        LostWorkdirError, StoreError: see `recover`.
    """
    going = lease.ledger.deleting
    if not going:
        return
    kept = {name for commit in commits.values() for name in commit.objects}
    for name in going:
        if not name.endswith(".zip"):  # rows
            store.delete(name)
            continue
        try:
            commit = Commit.from_bytes(store.get(name).data, name)
        except NotFoundError:
            continue
        except LedgerError:  # its objects are found by listing, at the next start
            store.delete(name)
            continue
        delete_objects(store, lease, commit.objects, kept)
        protocol.reached("objects deleted")
        store.delete(name)
    protocol.reached("removed")
    lease.change(
        lambda ledger: dataclasses.replace(
            ledger, deleting=tuple(each for each in ledger.deleting if each not in going)
        )
    )


def _committed(store: Store, lease: Lease, say: Warn) -> dict[int, Commit]:
    commits, lost = {}, []
    for step, name in sorted(lease.ledger.commits.items()):
        if step not in lease.ledger.checkpoints:
            continue
        try:
            commit = Commit.from_bytes(store.get(name).data, name)
            if commit.step != step or commit.crc32 != lease.ledger.checkpoints[step]:
                raise LedgerError(f"{store.url_of(name)} is not that of step {step}.")
            commits[step] = commit
        except (NotFoundError, LedgerError) as error:
            say(f"Checkpoint {step} of {store.url} cannot be used: {error}")
            lost.append(step)
    if lost:
        lease.change(lambda ledger: without(ledger, lost, damaged=True))
    return commits


def without(ledger: Ledger, steps: list[int], damaged: bool = False) -> Ledger:
    """The ledger without some checkpoints: from now on they do not exist.

    Args:
        ledger: the present one.
        steps: their steps.
        damaged: whether they are set aside, instead of removed.
    """
    names = {step: ledger.commits[step] for step in steps if step in ledger.commits}
    return dataclasses.replace(
        ledger,
        checkpoints={s: crc for s, crc in ledger.checkpoints.items() if s not in steps},
        commits={s: name for s, name in ledger.commits.items() if s not in steps},
        deleting=ledger.deleting if damaged else (*ledger.deleting, *names.values()),
        damaged={**ledger.damaged, **names} if damaged else ledger.damaged,
    )


def _adopt_copied(store: Store, lease: Lease, commits: dict[int, Commit], say: Warn) -> set[int]:
    """Commits the complete checkpoints that a tool has copied here: no run wrote their manifests.

    Without an earlier ledger (somebody has removed it), also those that a run wrote. They are found
    by listing, and each is decided by its manifest. Returns the steps of those that are not
    complete, which may still be being copied.
    """
    new, incomplete = {}, set()
    for listed in store.list(CHECKPOINTS):
        parts = listed.name.split("/")
        if len(parts) != 3 or parts[2] != MANIFEST or not is_step(parts[1]):
            continue
        step = int(parts[1])
        if step in commits or step in lease.ledger.damaged:
            continue
        small = _copied(store, step, lease.ledger.is_new)
        if small is None:
            continue
        if MANIFEST in small:
            new[step] = new_commit(step, lease.ledger.fence, small)
            continue
        incomplete.add(step)
        say(
            f"{store.url_of(listed.name)} was copied there, and files that it lists are missing, "
            "so it is not used. Copy all files of the checkpoint, and start again."
        )
    for commit in new.values():
        store.put(commit.name, commit.to_bytes(), if_absent=True)
        publish(store, lease, commit)
    if new:
        copied = {}
        if lease.ledger.is_new:  # a copied workdir
            copied = {each.name: (each.size, 0) for each in store.list() if is_run_file(each.name)}
        lease.change(
            lambda ledger: dataclasses.replace(
                ledger,
                checkpoints={**ledger.checkpoints, **{s: c.crc32 for s, c in new.items()}},
                commits={**ledger.commits, **{s: c.name for s, c in new.items()}},
                run_files={**copied, **ledger.run_files},
                removed={s: each for s, each in ledger.removed.items() if s not in new},
            )
        )
        commits.update(new)
    return incomplete


def _copied(store: Store, step: int, of_runs: bool) -> dict[str, bytes] | None:
    """The small files of a checkpoint that was copied to the bucket.

    Args:
        store: the workdir in the bucket.
        step: its step.
        of_runs: whether one that a run wrote here counts as well.

    Returns:
        Name -> content, without `files.json` if the checkpoint is not complete; None if a run wrote
        it, which was killed before it was committed.
    """
    try:
        manifest = store.get(object_name(step, MANIFEST)).data
        files = files_of(manifest)
        if "fence" in json.loads(manifest) and not of_runs:
            return None
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    small = {MANIFEST: manifest}
    for name, (size, crc) in files.items():
        found = store.head(object_name(step, name))
        if found is None or found.size != size:
            return {}
        if not is_data(name):
            small[name] = store.get(object_name(step, name)).data
            if zlib.crc32(small[name]) != crc:
                return {}
    return small


def _remove_leftovers(
    store: Store,
    lease: Lease,
    commits: dict[int, Commit],
    incomplete: set[int],
    needed: Collection[str],
) -> None:
    """Deletes the objects of commits that were killed. What a listing leaves out stays for now."""
    kept = {*lease.ledger.commits.values(), *lease.ledger.damaged.values(), lease.ledger.rows}
    kept |= {name for commit in commits.values() for name in commit.objects}
    kept |= set(needed)
    listed = [each.name for each in (*store.list(CHECKPOINTS), *store.list(COMMITS))]
    aside = tuple(f"{CHECKPOINTS}/{step}/" for step in {*lease.ledger.damaged, *incomplete})
    left = [
        name
        for name in listed
        if name not in kept and _belongs_to_run(name) and not name.startswith(aside or ("\0",))
    ]
    if left:
        lease.renew()  # must be ours at this moment
        left.sort(key=lambda name: (not name.endswith(f"/{MANIFEST}"), name))
        protocol.reached("leftovers")
        delete_objects(store, lease, left)


def _belongs_to_run(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == COMMITS or (len(parts) > 2 and is_step(parts[1]))
