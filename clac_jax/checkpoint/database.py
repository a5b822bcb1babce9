"""One process's part of a checkpoint's arrays: an OCDBT database with the shards that it owns.

The format is that of Orbax, which merges the databases of all processes into one: a merge reads the
nodes of their trees, not the values, and the merged tree refers to the files with the values. Nodes
are in separate files here, so that the process that merges needs only these of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from clac_jax.checkpoint.division import Divided
from clac_jax.checkpoint.shards import Region

# Folders in a database. Shards have files of their own: every process needs the other arrays to
# resume, and should not have to download the shards of the process that saves those.
NODES, VALUES, SHARDS = "nodes", "d", "shards"
MANIFEST = "manifest.ocdbt"
_FILE_BYTES = 1 << 31  # of values, as in Orbax
_CONTEXT = {
    "file_io_concurrency": {"limit": 128},
    "cache_pool#ocdbt": {"total_bytes_limit": 100_000_000},  # for nodes
}

Pieces = Mapping[int, np.ndarray]
"""Number of a shard -> its elements."""


def write_database(
    folder: Path, division: Mapping[str, Divided], pieces: Mapping[str, Pieces]
) -> None:
    """Writes shards into a new database; nothing is copied in memory. The caller syncs its files.

    There is one commit of the database for each of the folders `VALUES` and `SHARDS`.

    Args:
        folder: folder of the database, which must not exist.
        division: slash path -> the array and its shards.
        pieces: slash path -> the shards to write; C-contiguous, and unchanged until the return.
    """
    for values in (VALUES, SHARDS):
        some = {p: each for p, each in pieces.items() if values_of(len(division[p].grid)) == values}
        if some:
            _write(folder, values, division, some)


def values_of(num_shards: int) -> str:
    """The folder in a database with the values of an array, from its number of shards."""
    return VALUES if num_shards == 1 else SHARDS


def _write(
    folder: Path, values: str, division: Mapping[str, Divided], pieces: Mapping[str, Pieces]
) -> None:
    """Writes shards in one commit, their values into one folder of the database."""
    context, base = ts.Context({**_CONTEXT, "file_io_sync": False}), _files(folder)
    kvstore = {
        "driver": "ocdbt",
        # Only the manifest, which commits the rest, needs an atomic replacement.
        "base": {**base, "file_io_locking": {"mode": "non_atomic"}},
        "manifest": base,
        "btree_node_data_prefix": f"{NODES}/",
        "version_tree_node_data_prefix": f"{NODES}/",
        "value_data_prefix": f"{values}/",
        "target_data_file_size": _FILE_BYTES,
        "config": {
            "max_inline_value_bytes": 1024,
            "max_decoded_node_bytes": 100_000_000,
            "manifest_kind": "single",
        },
        "assume_config": True,
        "cache_pool": "cache_pool#ocdbt",
    }
    transaction = ts.Transaction(atomic=False)
    opened = {
        path: ts.open(
            {
                "driver": "zarr",
                "kvstore": {**kvstore, "path": f"{array_name(path)}/"},
                "dtype": np.dtype(division[path].dtype).name,
                "metadata": {
                    "shape": list(division[path].shape),
                    "chunks": [max(size, 1) for size in division[path].grid.shard_shape],
                    "compressor": None,
                },
                "store_data_equal_to_fill_value": True,
            },
            create=True,
            open=True,
            context=context,
            transaction=transaction,
        )
        for path in pieces
    }
    writes = [
        opened[path]
        .result()[division[path].grid.region(number)]
        .write(piece, can_reference_source_data_indefinitely=True)
        for path, numbered in pieces.items()
        for number, piece in numbered.items()
    ]
    for write in writes:
        write.copy.result()
    transaction.commit_async().result()


class Reader:
    """Reads regions of arrays from the merged database of a checkpoint."""

    def __init__(self, state: Path):
        """Opens the database in the folder `state/` of a checkpoint."""
        self._kvstore = {"driver": "ocdbt", "base": _files(state), "cache_pool": "cache_pool#ocdbt"}
        self._context = ts.Context(_CONTEXT)

    def open(self, path: str) -> Any:
        """The array at a slash path, as a TensorStore to be indexed and read."""
        kvstore = {**self._kvstore, "path": f"{array_name(path)}/"}
        spec = {"driver": "zarr", "kvstore": kvstore}
        return ts.open(spec, open=True, read=True, context=self._context).result()

    @staticmethod
    def read(array: Any, region: Region) -> np.ndarray:
        """The elements of a region."""
        content: np.ndarray = array[region].read().result()
        return content


def array_name(path: str) -> str:
    """Orbax's name of the array at a slash path."""
    return path.replace("/", ".")


def _files(folder: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{folder}/"}
