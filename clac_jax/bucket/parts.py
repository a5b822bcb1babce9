"""The parts of a sharded state on their way through a bucket: processes need not share a disk.

A process puts the files of its part where they stay, `checkpoints/<step>/state/...`, under random
names. Then it puts its note, `commits/<step>.<save>.<k>.json`. The first process fetches of each
part the nodes, which it needs for the merge; the values stay in the bucket. Parts that were never
merged are leftovers, which the next start removes.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from clac_jax.bucket.commits import COMMITS, object_name
from clac_jax.bucket.outage import Outage
from clac_jax.bucket.publishing import in_threads
from clac_jax.checkpoint.committed import is_data
from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.fetched import fetch_run
from clac_jax.checkpoint.files import is_inside, is_large
from clac_jax.checkpoint.layout import CHECKPOINTS, PARTS, STATE
from clac_jax.checkpoint.parts import Part, database_of
from clac_jax.checkpoint.removal import remove
from clac_jax.files import protocol
from clac_jax.stores.errors import NotFoundError, UnavailableError
from clac_jax.stores.store import Store

PAUSE = 1.0  # seconds between attempts while the store cannot be reached

Result = TypeVar("Result")


class BucketExchange:
    """An `Exchange` by objects in the workdir in a bucket."""

    def __init__(
        self,
        store: Store,
        patience_seconds: float,
        seen: Callable[[Collection[str]], None] = lambda names: None,
    ):
        """Wraps the store; nothing is sent.

        Args:
            store: the workdir in the bucket.
            patience_seconds: how long the store may be out of reach.
            seen: called, in the first process, with the names of objects that another has put.
        """
        self._seen = seen
        self._store, self._patience = store, patience_seconds
        self._outage = Outage(store.url)

    def publish(self, folder: Path, index: int, note: Mapping[str, Any]) -> None:
        """Puts the files of a part, then the note; then the local files are removed.

        Those of the first process are uploaded with the rest of the checkpoint.

        Raises:
            StoreError: the store cannot be reached for too long.
            OSError: a file cannot be read.
        """
        if index == 0:
            return
        database, names = database_of(folder, index), list(note.get("files", ()))

        def put(name: str) -> None:
            protocol.reached("file of a part")
            target = _stored_name(folder, index, name)
            # No condition: all that anybody ever writes under this name are these bytes.
            self._insist(lambda: self._store.put(target, database / name))

        in_threads(put, [name for name in names if is_data(name)])
        others = [name for name in names if not is_data(name)]
        small = {name: (database / name).read_bytes().hex() for name in others}
        content = json.dumps({**note, "small": small}).encode()
        protocol.reached("note of a part")
        self._insist(lambda: self._store.put(_note(folder, index), content))
        remove(folder)

    def read(self, folder: Path, index: int) -> Mapping[str, Any] | None:
        """See `Exchange.read`; None as well while the store cannot be reached.

        Raises:
            DamagedCheckpointError: the note lists files that it does not have, or elsewhere.
        """
        try:
            note: dict[str, Any] = json.loads(self._store.get(_note(folder, index)).data)
        except NotFoundError:
            note = {}
        except UnavailableError as error:
            self._outage.report(error)
            return None
        self._outage.report(None)
        files = note.get("files", {})
        for name in files:
            if not is_inside(name):
                url = self._store.url_of(_note(folder, index))
                raise DamagedCheckpointError(url, f"lists {name[:80]!r}, which no part has")
        self._seen([_stored_name(folder, index, name) for name in files if is_data(name)])
        for name, content in note.get("small", {}).items():
            data = bytes.fromhex(content)
            if [len(data), zlib.crc32(data)] != files.get(name):
                url = self._store.url_of(_note(folder, index))
                raise DamagedCheckpointError(url, "does not hold what was written")
            path = database_of(folder, index) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return note or None

    def fetch(self, folder: Path, index: int, part: Part) -> Collection[str]:
        """Downloads the small files of a part; the large ones stay in the bucket.

        Raises:
            DamagedCheckpointError: a file differs from what was written.
            StoreError: the store cannot be reached for too long.
        """
        names = [n for n, (size, _) in part.files.items() if not is_large(f"{STATE}/{n}", size)]

        def get(name: str) -> None:
            path = database_of(folder, index) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            target = _stored_name(folder, index, name)
            if self._insist(lambda: self._store.download(target, path)) != part.files[name][1]:
                raise DamagedCheckpointError(self._store.url_of(target), "is not what was written")

        in_threads(get, [name for name in names if is_data(name)])
        return names

    def remote(self, step: int) -> str:
        """URL of the checkpoint's folder."""
        return self._store.child(object_name(step, "")).url

    def clear(self, folder: Path, indices: Collection[int]) -> None:
        """Removes the notes, and the local folder.

        Raises:
            StoreError, OSError: that fails.
        """
        remove(folder)
        for index in sorted(set(indices) - {0}):
            self._store.delete(_note(folder, index))

    def checkpoint(self, directory: Path, step: int) -> Path:
        """A copy of a checkpoint, whose large files are downloaded when they are needed.

        Raises:
            StoreError: the store cannot be read.
        """
        del directory
        return fetch_run(f"{self._store.url}/{CHECKPOINTS}/{step}")

    def _insist(self, call: Callable[[], Result]) -> Result:
        """Repeats a call while the store cannot be reached."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                result = call()
            except UnavailableError as error:
                if time.monotonic() > deadline:
                    raise
                self._outage.report(error)
                time.sleep(PAUSE)
                continue
            self._outage.report(None)
            return result


def _stored_name(folder: Path, index: int, name: str) -> str:
    step = int(folder.name.partition(PARTS)[0])
    return object_name(step, f"{STATE}/{database_of(Path(), index)}/{name}")


def _note(folder: Path, index: int) -> str:
    step, _, save = folder.name.partition(PARTS)
    return f"{COMMITS}/{step}.{save}.{index}.json"
