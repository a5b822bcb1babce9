"""`clac-jax ckpt rm` for a run in a bucket."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from clac_jax.bucket.lease import acquire
from clac_jax.bucket.ledger import LEDGER, Ledger
from clac_jax.bucket.pins import identity
from clac_jax.bucket.recovery import finish_removals, recover, without
from clac_jax.checkpoint.files import MANIFEST
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.errors import warn
from clac_jax.stores.errors import StoreError
from clac_jax.stores.store import Store, open_store

LEASE_SECONDS = 60.0


def remove_checkpoints(url: str, steps: Sequence[int], say: Callable[[str], None] = warn) -> None:
    """Removes checkpoints of a run in a bucket; they stop existing before their files are deleted.

    Args:
        url: the run's workdir.
        steps: their steps.
        say: called with a line for the user before a wait.

    Raises:
        WorkdirError: a run writes there.
        StoreError: the store cannot be written.
    """
    store = open_store(url)
    if store.head(LEDGER) is None:  # copied there by a tool
        for step in steps:
            _remove(store.child(f"{CHECKPOINTS}/{step}"))
        return
    lease = acquire(store, LEASE_SECONDS, say=say, prepare=_no_run)
    finished = lease.previous is not None and lease.previous.finished
    lease.start_renewing(lambda error: None)  # the next change reports what keeps failing
    try:
        commits = recover(store, lease)
        going = {step: identity(commits[step].manifest) for step in steps if step in commits}
        lease.change(
            lambda ledger: dataclasses.replace(
                without(ledger, list(steps)), removed={**ledger.removed, **going}
            )
        )
        finish_removals(store, lease, {s: c for s, c in commits.items() if s not in steps})
    except BaseException:
        with contextlib.suppress(StoreError):  # the first error is the one to report
            lease.release(finished)
        raise
    lease.release(finished)


def _no_run(previous: Ledger | None, new: Ledger) -> Ledger:
    """The ledger as that of a command that works from no mirror: that of the run still counts."""
    return new if previous is None else dataclasses.replace(new, run=previous.last_run)


def _remove(store: Store) -> None:
    """Removes a checkpoint that no ledger names: its manifest first."""
    store.delete(MANIFEST)
    for each in store.list():
        store.delete(each.name)
