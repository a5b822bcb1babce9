"""The arrays of a checkpoint: copied off the device for a save, read and verified for a restore."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from clac_jax.chain.record import array_hash
from clac_jax.checkpoint.database import SHARDS, values_of
from clac_jax.checkpoint.files import (
    DamagedCheckpointError,
    UnreadableCheckpointError,
    check_files,
    read_manifest,
)
from clac_jax.checkpoint.layout import MERGED, STATE, CheckpointInfo, Leaf
from clac_jax.checkpoint.quiet import quiet_threads
from clac_jax.checkpoint.remote import ensure_local
from clac_jax.checkpoint.shard_handler import (
    ShardHandler,
    ShardRestoreArgs,
    Target,
    WrittenArray,
    WrongShardError,
    wanted_regions,
)
from clac_jax.checkpoint.shards import within_shape
from clac_jax.errors import UserError
from clac_jax.files.crc import crc32

Arrays = dict[str, np.ndarray]
Key = TypeVar("Key", bound=Hashable)

_FIRST_WORDS, _CHUNK_WORDS = 1 << 9, 1 << 15  # compared at a time: what stays in the cache
_THREADS = max(2, min(8, os.cpu_count() or 2))


class MissingArraysError(UserError):
    """A checkpoint lacks an array that was requested: it belongs to a different model."""


class HostBuffers(Generic[Key]):
    """Preallocated host memory that a state is copied to for a save.

    Page faults make a fresh allocation of a model's size many times slower than the copy itself.

    Attributes:
        unchanged: keys of the arrays of the last copy that equal those of the copy before, in every
            bit; after the first copy it says nothing.
    """

    def __init__(self, shapes: Mapping[Key, jax.ShapeDtypeStruct]):
        """Allocates memory for a state, or part of it, with these arrays: by slash path, say."""
        self._buffers = {key: np.zeros(leaf.shape, leaf.dtype) for key, leaf in shapes.items()}
        self.unchanged: set[Key] = set()
        for buffer in self._buffers.values():
            buffer.fill(0)  # np.zeros allocates lazily; this touches every page
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="host-copy")

    def fill(self, arrays: Mapping[Key, Any]) -> dict[Key, np.ndarray]:
        """Copies the arrays; the result is valid until the next call.

        Args:
            arrays: key -> array of the shape allocated before; leading axes of length 1 are
                allowed.
        """
        for leaf in arrays.values():
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()

        def copy(key: Key) -> bool:
            buffer = self._buffers[key]
            array = np.asarray(arrays[key]).reshape(buffer.shape)
            if has_same_bits(array, buffer):
                return False
            np.copyto(buffer, array)
            return True

        changed = list(self._pool.map(copy, arrays))
        self.unchanged = {key for key, c in zip(arrays, changed, strict=True) if not c}
        return self._buffers


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    """Shape, dtype, checksum and norm of every array."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(arrays, pool.map(_describe, arrays.values()), strict=True))


def only_this_process() -> ocp.options.MultiprocessingOptions:
    """Orbax options for a run in which one process saves and reads the complete state."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def saving_handler() -> ocp.PyTreeCheckpointHandler:
    """Orbax's handler for what this process saves, with ours for arrays that it saves by shards."""
    return ocp.PyTreeCheckpointHandler(
        use_compression=False,
        multiprocessing_options=only_this_process(),
        type_handler_registry=shard_registry(),
    )


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
    return _read_complete(info, paths, None)


def _read_complete(
    info: CheckpointInfo, paths: Collection[str], files: Collection[str] | None
) -> Arrays:
    if not paths:
        return {}
    with reading_arrays(info, paths, files):
        arrays = _read(info, paths)
        with ThreadPoolExecutor(_THREADS) as pool:
            leaves = [info.leaves[path] for path in arrays]
            intact = list(pool.map(_is_intact, leaves, arrays.values()))
        for path, is_intact in zip(arrays, intact, strict=True):
            if not is_intact:
                raise WrongShardError(path)
    return arrays


def read_targets(info: CheckpointInfo, targets: Mapping[str, Target]) -> dict[str, Any]:
    """Reads and verifies arrays of a checkpoint, of sharded ones what this process needs.

    Host memory holds about one shard of them at a time.

    Args:
        info: description of the checkpoint.
        targets: name -> an array in the checkpoint, and how to restore it.

    Returns:
        name -> a NumPy array, or one on the devices of all processes if it is to be sharded.

    Raises:
        MissingArraysError, DamagedCheckpointError, UnreadableCheckpointError: see `read_arrays`.
    """
    complete = {name: each for name, each in targets.items() if each.wanted.sharding is None}
    files = needed_files(info, targets)
    saved = _read_complete(info, {each.path for each in complete.values()}, files)
    result: dict[str, Any] = {}
    for name, each in complete.items():
        if each.base is None:
            result[name] = saved[each.path].astype(each.wanted.dtype, copy=False)
        else:
            result[name] = _overlap(np.array(each.base), saved[each.path])
    names: dict[str, list[str]] = {}  # an average may start as a second copy of a parameter
    for name in targets.keys() - complete.keys():
        names.setdefault(targets[name].path, []).append(name)
    if sharded := {path: min(several) for path, several in names.items()}:
        with reading_arrays(info, sharded, files):
            args = {
                path: ShardRestoreArgs(
                    restore_type=WrittenArray, target=targets[name], leaf=info.leaves[path]
                )
                for path, name in sharded.items()
            }
            read = _restored(info, args, shard_registry())
        for path, several in names.items():
            for name in several:
                is_first = name == sharded[path]
                result[name] = read[path] if is_first else jnp.copy(read[path])
    return result


def needed_files(info: CheckpointInfo, targets: Mapping[str, Target]) -> list[str] | None:
    """The files of a checkpoint that this process needs to restore some arrays; None for all.

    Args:
        info: description of the checkpoint.
        targets: the arrays, as for `read_targets`.
    """
    needed: set[tuple[int, str]] = set()  # process that saved it, folder in its database
    for target in targets.values():
        leaf = info.leaves.get(target.path)
        if leaf is None or not leaf.owners:
            return None
        for region in wanted_regions(target.wanted):
            numbers = leaf.grid.overlapping(within_shape(region, leaf.shape))
            values = values_of(len(leaf.owners))
            needed |= {(leaf.owners[number], values) for number in numbers}
    prefix = f"{STATE}/ocdbt.process_"
    owners = {str(owner) for owner, _ in needed}
    shards = {str(owner) for owner, values in needed if values == SHARDS}

    def is_needed(name: str) -> bool:
        number, _, rest = name.removeprefix(prefix).partition("/")
        if not name.startswith(prefix):
            return True
        return number in (shards if rest.startswith(f"{SHARDS}/") else owners)

    return [name for name in read_manifest(info.folder) if is_needed(name)]


def shard_registry() -> Any:
    """Orbax's registry with the handler of arrays that are saved by shards.

    NumPy arrays must stay unchanged while they are saved: Orbax makes no copies of them.
    """
    none = ocp.type_handlers.ArrayHandler(array_metadata_store=None)  # Orbax warns if it is missing
    return ocp.type_handlers.create_type_handler_registry(
        (WrittenArray, ShardHandler()),
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, none),
    )


@contextmanager
def reading_arrays(
    info: CheckpointInfo, paths: Collection[str], files: Collection[str] | None = None
) -> Iterator[None]:
    """Context that reads these arrays of a checkpoint; raises the errors of `read_arrays`.

    Args:
        info: description of the checkpoint.
        paths: slash paths of the arrays.
        files: the files that are needed; None for all.
    """
    if missing := sorted(set(paths) - set(info.leaves)):
        raise MissingArraysError(
            f"{info.folder} does not hold {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + ": it was saved by another model. `clac-jax ckpt show` lists what it holds."
        )
    ensure_local(info.folder, files)
    try:
        yield
    except WrongShardError as error:
        # Raises, naming the file, if one is damaged.
        check_files(info.folder, every_byte=True, only=files)
        raise DamagedCheckpointError(
            info.folder / STATE, f"has wrong numbers in {error.path}"
        ) from error
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        check_files(info.folder, every_byte=True, only=files)
        if not os.path.lexists(info.folder / STATE / MERGED):
            raise DamagedCheckpointError(info.folder / STATE / MERGED, "is missing") from error
        raise UnreadableCheckpointError(
            f"{info.folder / STATE} cannot be read, although its files are what was written: "
            f"{error}. Free memory or fix the file system, and start again."
        ) from error


def _read(info: CheckpointInfo, paths: Collection[str]) -> Arrays:
    read = _restored(info, {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in paths})
    return {path: np.asarray(read[path]) for path in paths}


def _restored(
    info: CheckpointInfo, args: Mapping[str, ocp.RestoreArgs], registry: Any = None
) -> dict[str, Any]:
    """Slash path -> what Orbax restores with these arguments."""
    wanted = {
        path: jax.ShapeDtypeStruct(info.leaves[path].shape, np.dtype(info.leaves[path].dtype))
        for path in args
    }
    one = only_this_process()
    options = {} if registry is None else {"type_handler_registry": registry}
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=one, **options)
    quiet_threads()
    with ocp.Checkpointer(handler, multiprocessing_options=one) as checkpointer:
        tree = checkpointer.restore(
            epath.Path(info.folder).resolve() / STATE,  # Orbax rejects relative paths
            args=ocp.args.PyTreeRestore(
                item=nested(wanted), restore_args=nested(args), partial_restore=True
            ),
        )
    read: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return read


def _is_intact(leaf: Leaf, array: np.ndarray) -> bool:
    regions = (leaf.grid.region(number) for number in range(len(leaf.checksums)))
    pairs = zip(regions, leaf.checksums, strict=True)
    return all(crc32_of(array[region]) == crc for region, crc in pairs)


def _overlap(fresh: np.ndarray, saved: np.ndarray) -> np.ndarray:
    common = tuple(slice(min(a, b)) for a, b in zip(fresh.shape, saved.shape, strict=True))
    fresh[common] = saved[common]
    return fresh


def has_same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape have the same dtype and bits: -0.0 differs from 0.0.

    Ends at the first difference, so it costs little for arrays that differ everywhere.
    """
    if a.dtype != b.dtype or not (a.flags.c_contiguous and b.flags.c_contiguous):
        return False
    word = np.uint8 if a.nbytes % 8 else np.uint64
    left, right = (each.reshape(-1).view(word) for each in (a, b))
    start, size = 0, _FIRST_WORDS
    while start < left.size:
        if not np.array_equal(left[start : start + size], right[start : start + size]):
            return False
        start, size = start + size, _CHUNK_WORDS
    return True


def norm_of(array: np.ndarray) -> float:
    """The l2 norm of an array."""
    flat = array.ravel()
    if array.dtype != np.float32:  # BLAS needs no copy of float32
        flat = flat.astype(np.float64)
    with np.errstate(over="ignore"):  # inf, after a flipped bit of an exponent
        return float(np.sqrt(np.dot(flat, flat)))


def crc32_of(array: np.ndarray) -> int:
    """CRC-32 of the bytes of an array in C order."""
    return crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _describe(array: np.ndarray) -> Leaf:
    shape, dtype = tuple(array.shape), str(array.dtype)
    hashed = array_hash(array)
    return Leaf(shape, dtype, crc32_of(array), norm_of(array), sha256=hashed)
