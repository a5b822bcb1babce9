"""Puts and deletes of objects whose names are used again: those that all other readers see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from clac_jax.bucket.commits import Commit, object_name
from clac_jax.bucket.lease import Lease
from clac_jax.checkpoint.files import MANIFEST
from clac_jax.errors import WorkdirError
from clac_jax.files import protocol
from clac_jax.stores.errors import ConflictError, NotFoundError
from clac_jax.stores.store import Store
from clac_jax.stores.version import Version

THREADS = 4
_ATTEMPTS = 5


def put_own(
    store: Store, lease: Lease, name: str, content: bytes, known: Version | None = None
) -> Version:
    """Puts an object, replacing the one that is there only while this process holds the workdir.

    Args:
        store: the workdir in the bucket.
        lease: its lease.
        name: name of the object.
        content: its bytes.
        known: the version that this process has put last, if any.

    Raises:
        LostWorkdirError: somebody else holds the workdir.
        StoreError: the store cannot be reached.
    """
    for _ in range(_ATTEMPTS):
        lease.hold()
        try:
            return store.put(name, content, if_absent=known is None, if_version=known)
        except ConflictError:
            found = store.head(name)
            known = found.version if found else None
            lease.renew()  # after the version was read: a later holder's object is not replaced
    raise WorkdirError(
        f"{store.url_of(name)} changes while the run writes it. Find out what else writes there."
    )


def publish(store: Store, lease: Lease, commit: Commit) -> None:
    """Puts the small files of a checkpoint under their own names, `files.json` last.

    Raises:
        LostWorkdirError, StoreError: see `put_own`.
    """
    names = [name for name in sorted(commit.small) if name != MANIFEST]

    def put(name: str) -> None:
        protocol.reached("small file")
        put_own(store, lease, object_name(commit.step, name), commit.small[name])

    in_threads(put, names)
    protocol.reached("manifest")
    put(MANIFEST)
    protocol.reached("manifest put")


def republish(store: Store, lease: Lease, commit: Commit) -> None:
    """Puts those small files again that are missing or differ.

    Raises:
        LostWorkdirError, StoreError: see `put_own`.
    """
    different = []

    def look(name: str) -> None:
        found: bytes | None
        try:
            found = store.get(object_name(commit.step, name)).data
        except NotFoundError:
            found = None
        if found != commit.small[name]:
            different.append(name)

    in_threads(look, list(commit.small))
    for name in sorted(different, key=lambda name: (name == MANIFEST, name)):
        put_own(store, lease, object_name(commit.step, name), commit.small[name])


def delete_objects(
    store: Store, lease: Lease, names: Iterable[str], kept: Collection[str] = ()
) -> None:
    """Deletes objects: the first one before all others, whose order is arbitrary.

    Args:
        store: the workdir in the bucket.
        lease: its lease.
        names: names of the objects.
        kept: names among them that stay.

    Raises:
        LostWorkdirError, StoreError: see `put_own`.
    """

    def delete(name: str) -> None:
        lease.hold()
        store.delete(name)

    going = [name for name in names if name not in kept]
    for group in (going[:1], going[1:]):
        protocol.reached("delete")
        in_threads(delete, group)


def in_threads(action: Callable[[str], object], names: Sequence[str]) -> None:
    """Calls a function with each name, a few at a time; raises the first error."""
    if min(THREADS, len(names)) <= 1:
        for name in names:
            action(name)
        return
    with ThreadPoolExecutor(THREADS, thread_name_prefix="bucket") as pool:
        list(pool.map(action, names))
