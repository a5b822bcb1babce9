"""The arrays of a checkpoint: copied off the device for a save, read and verified for a restore."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from clac_jax.checkpoint.files import (
    DamagedCheckpointError,
    UnreadableCheckpointError,
    check_files,
)
from clac_jax.checkpoint.layout import MERGED, STATE, CheckpointInfo, Leaf
from clac_jax.checkpoint.quiet import quiet_threads
from clac_jax.checkpoint.remote import ensure_local
from clac_jax.errors import UserError

Arrays = dict[str, np.ndarray]

_THREADS = max(2, min(8, os.cpu_count() or 2))


class MissingArraysError(UserError):
    """A checkpoint lacks an array that was requested: it belongs to a different model."""


class HostBuffers:
    """Preallocated host memory that a state is copied to for a save.

    Page faults make a fresh allocation of a model's size many times slower than the copy itself.
    """

    def __init__(self, shapes: Mapping[str, jax.ShapeDtypeStruct]):
        """Allocates memory for a state with these arrays, given by slash path."""
        self._buffers = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
        for buffer in self._buffers.values():
            buffer.fill(0)  # np.zeros allocates lazily; this touches every page
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="host-copy")

    def fill(self, arrays: Mapping[str, Any]) -> Arrays:
        """Copies the arrays; the result is valid until the next call.

        Args:
            arrays: slash path -> array of the shape allocated before; leading axes of length 1 are
                allowed.
        """
        for leaf in arrays.values():
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()

        def copy(path: str) -> None:
            buffer = self._buffers[path]
            np.copyto(buffer, np.asarray(arrays[path]).reshape(buffer.shape))

        list(self._pool.map(copy, arrays))
        return self._buffers


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    """Shape, dtype, checksum and norm of every array."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(arrays, pool.map(_describe, arrays.values()), strict=True))


def only_this_process() -> ocp.options.MultiprocessingOptions:
    """Orbax options for a run in which one process saves and reads the complete state."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Slash paths -> nested dicts, the layout in which Orbax saves."""
    tree: dict[str, Any] = traverse_util.unflatten_dict(dict(arrays), sep="/")
    return tree


def read_arrays(info: CheckpointInfo, paths: Collection[str]) -> Arrays:
    """Reads some arrays of a checkpoint and compares each with its checksum.

    Args:
        info: description of the checkpoint.
        paths: slash paths of the arrays; nothing else is read.

    Raises:
        MissingArraysError: the checkpoint lacks some of them.
        DamagedCheckpointError: a file differs from what was written; the message names it.
        UnreadableCheckpointError: all files are intact, but reading them fails.
        StoreError: they are in an object store, and cannot be downloaded.
    """
    if not paths:
        return {}
    if missing := sorted(set(paths) - set(info.leaves)):
        raise MissingArraysError(
            f"{info.folder} does not hold {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + ": it was saved by another model. `clac-jax ckpt show` lists what it holds."
        )
    ensure_local(info.folder)
    try:
        arrays = _read(info, paths)
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        check_files(info.folder, every_byte=True)
        if not os.path.lexists(info.folder / STATE / MERGED):
            raise DamagedCheckpointError(info.folder / STATE / MERGED, "is missing") from error
        raise UnreadableCheckpointError(
            f"{info.folder / STATE} cannot be read, although its files are what was written: "
            f"{error}. Free memory or fix the file system, and start again."
        ) from error
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = dict(zip(arrays, pool.map(_crc32, arrays.values()), strict=True))
    for path, crc in sums.items():
        if crc != info.leaves[path].crc32:
            check_files(info.folder, every_byte=True)  # raises, naming the file, if one is damaged
            raise DamagedCheckpointError(info.folder / STATE, f"has wrong numbers in {path}")
    return arrays


def _read(info: CheckpointInfo, paths: Collection[str]) -> Arrays:
    wanted = {
        path: jax.ShapeDtypeStruct(info.leaves[path].shape, np.dtype(info.leaves[path].dtype))
        for path in paths
    }
    as_numpy = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in paths}
    one = only_this_process()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=one)
    quiet_threads()
    with ocp.Checkpointer(handler, multiprocessing_options=one) as checkpointer:
        tree = checkpointer.restore(
            epath.Path(info.folder).resolve() / STATE,  # Orbax rejects relative paths
            args=ocp.args.PyTreeRestore(
                item=nested(wanted), restore_args=nested(as_numpy), partial_restore=True
            ),
        )
    read = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(read[path]) for path in paths}


def _describe(array: np.ndarray) -> Leaf:
    flat = array.ravel()
    if array.dtype != np.float32:  # BLAS needs no copy of float32
        flat = flat.astype(np.float64)
    norm = float(np.sqrt(np.dot(flat, flat)))
    return Leaf(tuple(array.shape), str(array.dtype), _crc32(array), norm)


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
