"""Objects from which a run resumes: the small files of each checkpoint, and the rows.

The large files of a checkpoint have random names (TensorStore's), so no process ever writes another
content under the name of one of them. Its small files (`run/metadata`, `state/_METADATA`, ...) have
the same names in every save of a step. If a checkpoint were read from those, then a holder that was
paused for an hour could still damage the checkpoint of its successor, by a request that it had
already decided on. So a run resumes from copies of them in one object, `commits/<...>.zip`, which
has a random name; the ledger says which object counts. The rows are kept in the same way. The files
under their own names are for all other readers: Orbax, `clac-jax ckpt`, tools that copy folders.
"""

from __future__ import annotations

import gzip
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clac_jax.bucket.ledger import LEDGER, LedgerError
from clac_jax.checkpoint.committed import is_data as is_data
from clac_jax.checkpoint.committed import pack, unpack
from clac_jax.checkpoint.files import MANIFEST, listed_files
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import Store

COMMITS = "commits"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Commit:
    """A checkpoint as committed to a bucket.

    Attributes:
        step: its step.
        name: name of this object in the workdir.
        small: name in the checkpoint's folder -> content, `files.json` included.
    """

    step: int
    name: str
    small: Mapping[str, bytes]

    @property
    def manifest(self) -> bytes:
        """The content of `files.json`."""
        return self.small[MANIFEST]

    @property
    def crc32(self) -> int:
        """CRC-32 of `files.json`, which the ledger holds."""
        return zlib.crc32(self.manifest)

    @property
    def files(self) -> dict[str, tuple[int, int]]:
        """Name in the checkpoint's folder -> [size, CRC-32], without `files.json`."""
        return files_of(self.manifest)

    @property
    def large(self) -> dict[str, tuple[int, int]]:
        """The part of `files` that is not in `small`."""
        return {name: facts for name, facts in self.files.items() if name not in self.small}

    @property
    def objects(self) -> list[str]:
        """Names in the workdir of all objects of the checkpoint: `files.json` first, data last."""
        names = sorted(self.files, key=lambda name: (name not in self.small, name))
        return [object_name(self.step, name) for name in (MANIFEST, *names)]

    def to_bytes(self) -> bytes:
        """The archive."""
        return pack(self.step, self.small)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Commit:
        """The inverse of `to_bytes`.

        Raises:
            LedgerError: it is not such an archive, or damaged.
        """
        try:
            step, small = unpack(data)
            commit = cls(step, name, small)
            commit.files  # noqa: B018  (can be read)
            return commit
        except (ValueError, KeyError) as error:
            raise LedgerError(
                f"{name} is damaged: it does not describe a checkpoint. Use an older checkpoint."
            ) from error


def new_commit(step: int, fence: int, small: Mapping[str, bytes]) -> Commit:
    """A commit of a checkpoint, under a new name; the fencing number is put into its manifest.

    Args:
        step: the checkpoint's step.
        fence: the fencing number of the holder.
        small: name -> content of all files that are not data, with the local `files.json`.
    """
    manifest = json.loads(small[MANIFEST]) | {"fence": fence}
    small = {**small, MANIFEST: json.dumps(manifest).encode()}
    return Commit(step, f"{COMMITS}/{step}.{fence}.{secrets.token_hex(8)}.zip", small)


def put_rows(store: Store, fence: int, rows: bytes) -> str:
    """Puts the rows of the run as an object with a new name, like the small files; returns it.

    Args:
        store: the workdir in the bucket.
        fence: the fencing number of the holder.
        rows: content of `metrics.jsonl`.

    Raises:
        StoreError: the store cannot be reached.
    """
    name = f"{COMMITS}/rows.{fence}.{secrets.token_hex(8)}.jsonl.gz"
    store.put(name, gzip.compress(rows, compresslevel=6, mtime=0), if_absent=True)
    return name


def get_rows(store: Store, name: str) -> bytes:
    """Reads what `put_rows` has put.

    Raises:
        LedgerError: it is missing or damaged.
        StoreError: the store cannot be reached.
    """
    try:
        return gzip.decompress(store.get(name).data)
    except (NotFoundError, OSError, EOFError, zlib.error) as error:
        raise LedgerError(
            f"{store.url_of(name)}, the rows of this run, is missing or damaged. Put it back, or "
            f"remove {LEDGER} there: the next start finds the checkpoints by their files.json, and "
            f"the rows in {METRICS}."
        ) from error


def files_of(manifest: bytes) -> dict[str, tuple[int, int]]:
    """The files that a `files.json` lists: name -> size and CRC-32.

    Raises:
        ValueError: it is not such a file, or damaged.
    """
    return listed_files(json.loads(manifest))


def object_name(step: int, name: str) -> str:
    """Name in the workdir of a file of a checkpoint."""
    return f"{CHECKPOINTS}/{step}/{name}"


def local_manifest(folder: Path) -> bytes | None:
    """The content of a local checkpoint's `files.json`; None if it is not committed."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
