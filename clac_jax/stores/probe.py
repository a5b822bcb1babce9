"""A check that a store keeps conditions, on which everything else relies."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from clac_jax.stores.errors import ConflictError, StoreError
from clac_jax.stores.store import Store


def check_conditions(store: Store) -> None:
    """Writes, replaces and deletes a small object, with conditions that hold and that do not.

    Some stores that speak S3's protocol ignore conditions they do not know: two runs would then
    both hold the same workdir. It takes about ten requests: call it when a folder is first used.

    Raises:
        StoreError: the store ignores conditions, or else as for any write: a missing bucket, or
            credentials that do not permit to write, read or delete.
    """
    name = f"probe-{secrets.token_hex(8)}"
    try:
        first = store.put(name, secrets.token_bytes(16), if_absent=True)
        store.put(name, secrets.token_bytes(16), if_version=first)
        conditions: tuple[dict[str, Any], ...] = ({"if_absent": True}, {"if_version": first})
        for condition in conditions:
            with contextlib.suppress(ConflictError):
                store.put(name, secrets.token_bytes(16), **condition)
                raise StoreError(
                    f"{store.url} is in a store that ignores the conditions of writes "
                    "(If-None-Match and If-Match), so two runs could write to one workdir. Use a "
                    "store, or a version of its software, that supports conditional writes."
                )
    finally:
        store.delete(name)
