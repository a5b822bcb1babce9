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
from clac_jax.errors import UserError

Arrays = dict[str, np.ndarray]

_THREADS = max(2, min(8, os.cpu_count() or 2))


class MissingArraysError(UserError):
    """A checkpoint does not hold an array that is wanted of it: it is another model's."""


class HostBuffers:
    """Memory that a state is copied to for a save, allocated once.

    A fresh allocation of the size of a model costs many times the copy itself, in page faults.
    """

    def __init__(self, shapes: Mapping[str, jax.ShapeDtypeStruct]):
        """Allocates for a state with these arrays, by slash path."""
        self._buffers = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
        for buffer in self._buffers.values():
            buffer.fill(0)  # pages that only hold zeros do not exist yet
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="host-copy")

    def fill(self, arrays: Mapping[str, Any]) -> Arrays:
        """Copies the arrays; the result is valid until the next call.

        Args:
            arrays: slash path -> array of the shape given before; axes of length 1 may lead it.
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
    """Shape, type, checksum and norm of every array."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(arrays, pool.map(_describe, arrays.values()), strict=True))


def only_this_process() -> ocp.options.MultiprocessingOptions:
    """For Orbax: one process of a run saves and reads, and has all of the state."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Slash paths -> nested dicts, the form in which Orbax saves."""
    tree: dict[str, Any] = traverse_util.unflatten_dict(dict(arrays), sep="/")
    return tree


def read_arrays(info: CheckpointInfo, paths: Collection[str]) -> Arrays:
    """Reads some arrays of a checkpoint and compares each with its checksum.

    Args:
        info: of the checkpoint.
        paths: slash paths of the arrays; nothing else is read.

    Raises:
        MissingArraysError: the checkpoint does not hold them all.
        DamagedCheckpointError: naming the file that is not what was written.
        UnreadableCheckpointError: every file is what was written, and yet reading fails.
    """
    if not paths:
        return {}
    if missing := sorted(set(paths) - set(info.leaves)):
        raise MissingArraysError(
            f"{info.folder} does not hold {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + ": it was saved by another model. `clac-jax ckpt show` lists what it holds."
        )
    try:
        arrays = _read(info, paths)
    except Exception as error:  # whatever Orbax and TensorStore raise for damaged files
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
            check_files(info.folder, every_byte=True)  # names the file, where it is the file
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
            epath.Path(info.folder).resolve() / STATE,  # Orbax takes no relative path
            args=ocp.args.PyTreeRestore(
                item=nested(wanted), restore_args=nested(as_numpy), partial_restore=True
            ),
        )
    read = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(read[path]) for path in paths}


def _describe(array: np.ndarray) -> Leaf:
    flat = array.ravel()
    if array.dtype != np.float32:  # for which BLAS needs no copy
        flat = flat.astype(np.float64)
    norm = float(np.sqrt(np.dot(flat, flat)))
    return Leaf(tuple(array.shape), str(array.dtype), _crc32(array), norm)


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
