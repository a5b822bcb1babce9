"""Objects that were put for a checkpoint which may never be committed.

A save that comes and goes while the store cannot be reached, or while another is uploaded, leaves
what has been put for it: the parts of other processes, and its own files if an upload broke off.
The next start would find them by listing; a run that lasts for weeks removes them itself, by name.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping

from clac_jax.bucket.commits import COMMITS, Commit, object_name
from clac_jax.bucket.ledger import Ledger
from clac_jax.bucket.pins import Pinned
from clac_jax.checkpoint.committed import files_of
from clac_jax.checkpoint.files import MANIFEST


class Loose:
    """Names of objects that no commit names yet; safe in threads."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def add(self, names: Iterable[str]) -> None:
        """Adds objects that are about to be put, or that another process has put."""
        with self._lock:
            self._names.update(names)

    def discard(self, names: Iterable[str]) -> None:
        """Removes objects that a commit names now, or that are deleted."""
        with self._lock:
            self._names.difference_update(names)

    def left(
        self,
        ledger: Ledger,
        commits: Mapping[int, Commit],
        there: Mapping[int, Pinned],
        ended: bool,
        about: Collection[str],
    ) -> list[str]:
        """The objects that no commit will ever name.

        All parts of a save have arrived before the first process starts the next one. So those of
        steps before the newest in the mirror belong to one of its checkpoints, or to none.

        Args:
            ledger: the ledger as it is now.
            commits: step -> commit of the checkpoints in the bucket.
            there: step -> checkpoint of the mirror.
            ended: whether no save is in progress or will follow.
            about: names of objects that the next change of the ledger will name.
        """
        if ledger.commits.keys() != commits.keys():
            return []  # a change whose answer was lost; it is looked at again
        kept = {name for commit in commits.values() for name in commit.objects}
        kept |= {name for pinned in there.values() for name in _objects(pinned)}
        kept |= {*about, ledger.rows, *ledger.deleting}
        kept |= {*ledger.commits.values(), *ledger.damaged.values()}
        newest = max(there, default=0)
        with self._lock:
            return sorted(
                name
                for name in self._names - kept
                if (step := _step(name)) is None
                or (step not in ledger.damaged and (ended or step < newest))
            )


def _step(name: str) -> int | None:
    """The step of a checkpoint's object; None for one in `commits/`."""
    folder, _, rest = name.partition("/")
    return None if folder == COMMITS else int(rest.partition("/")[0])


def _objects(pinned: Pinned) -> set[str]:
    names = {MANIFEST, *files_of(pinned.manifest)}
    return {object_name(pinned.step, name) for name in names}
