"""Orbax's extension point for arrays that are saved and restored by shards."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import future

from clac_jax.checkpoint.database import Reader
from clac_jax.checkpoint.division import num_bytes
from clac_jax.checkpoint.layout import Leaf
from clac_jax.checkpoint.shards import (
    Region,
    common,
    region_of,
    shape_of,
    within,
    within_shape,
)
from clac_jax.files.crc import crc32

# Small arrays are read several at a time, as long as they need no more host memory than this; a
# larger shard is read while no other is.
READ_AHEAD_BYTES = 64 << 20
_READERS = 8


class WrongShardError(Exception):
    """A shard differs from its checksum."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


@dataclass(frozen=True)
class WrittenArray:
    """An array to save whose shards are already in databases of its processes.

    Attributes:
        shape: shape of the array.
        dtype: its dtype.
        add_databases: adds the databases of all arrays to the folder `state/` of a checkpoint.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    add_databases: Callable[[Path], None]


@dataclass(frozen=True)
class Target:
    """An array to restore.

    Attributes:
        path: slash path of the saved array.
        wanted: shape and dtype to restore it with; the sharding, if it is to be sharded.
        base: the array so far, if the saved one has another shape: elements that it lacks keep
            these values.
    """

    path: str
    wanted: jax.ShapeDtypeStruct
    base: Any = None


@dataclass
class ShardRestoreArgs(ocp.RestoreArgs):
    """Restores an array onto the devices of this process.

    Attributes:
        target: the array.
        leaf: its description in the checkpoint.
    """

    target: Target | None = None
    leaf: Leaf | None = None


class ShardHandler(ocp.type_handlers.TypeHandler):
    """Saves `WrittenArray` leaves, and restores arrays by the shards that this process needs."""

    def typestr(self) -> str:
        """The type with which a stock Orbax restores the arrays."""
        return "np.ndarray"

    async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
        """Not needed to save or restore."""
        raise NotImplementedError

    async def serialize(
        self, values: Sequence[WrittenArray], infos: Sequence[Any], args: Any = None
    ) -> Sequence[Any]:
        """Adds the databases with the shards to Orbax's folder; Orbax merges them."""
        del args

        async def add() -> None:
            for info in infos:
                await info.await_path_creation()
            values[0].add_databases(Path(infos[0].parent_dir))

        return [future.CommitFutureAwaitingContractedSignals(add(), name="shards")]

    async def deserialize(
        self, infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[jax.Array]:
        """Reads and verifies the shards that this process needs, and puts them on its devices.

        Raises:
            WrongShardError: a shard differs from its checksum.
        """
        reader, budget = Reader(Path(infos[0].parent_dir)), _Budget(READ_AHEAD_BYTES)
        sources = [_Source(reader, each) for each in args or ()]
        # The largest first: the others then fill the time that they leave.
        order = sorted(range(len(sources)), key=lambda k: -sources[k].peak_bytes)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="restore") as pool:
            pending = {k: pool.submit(_restore, sources[k], budget) for k in order}
            try:
                return [pending[k].result() for k in range(len(sources))]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


class _Budget:
    """Host memory that several threads share."""

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Waits for this many bytes; more than the limit are granted if nothing else is in use."""
        with self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


def wanted_regions(wanted: jax.ShapeDtypeStruct) -> list[Region]:
    """The regions of an array that the devices of this process need."""
    if wanted.sharding is None:
        return [tuple(slice(0, size) for size in wanted.shape)]
    indices = wanted.sharding.addressable_devices_indices_map(wanted.shape).values()
    return [region_of(index, wanted.shape) for index in indices]


def _restore(source: _Source, budget: _Budget) -> jax.Array:
    """One array, of which this process holds what its devices need."""
    wanted, base, placed = source.target.wanted, source.target.base, []
    with budget.of(source.peak_bytes):
        bases = {} if base is None else {each.device: each.data for each in base.addressable_shards}
        devices = wanted.sharding.addressable_devices_indices_map(wanted.shape)
        for device, index in devices.items():
            region = region_of(index, wanted.shape)
            elements = source.elements(region, bases.get(device))
            placed.append(jax.device_put(elements, device, may_alias=False))
            jax.block_until_ready(placed[-1])
        source.free()
    return jax.make_array_from_single_device_arrays(wanted.shape, wanted.sharding, placed)


class _Source:
    """A saved array, of which one verified shard at a time is in memory."""

    def __init__(self, reader: Reader, args: ShardRestoreArgs):
        assert args.target is not None and args.leaf is not None
        self.target, self._leaf, self._reader = args.target, args.leaf, reader
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def peak_bytes(self) -> int:
        """Host memory that restoring takes at a time: a region, and a saved shard."""
        wanted, leaf = self.target.wanted, self._leaf
        region = num_bytes(tuple(wanted.sharding.shard_shape(wanted.shape)), wanted.dtype)
        return region + num_bytes(leaf.grid.shard_shape, np.dtype(leaf.dtype))

    def free(self) -> None:
        """Frees the shard in memory."""
        self._last = None

    @functools.cached_property
    def _array(self) -> Any:
        return self._reader.open(self.target.path)

    def elements(self, region: Region, base: jax.Array | None) -> np.ndarray:
        """The elements of a region, in the dtype that is wanted.

        Args:
            region: region of the wanted array.
            base: its elements so far, for those that the checkpoint lacks.
        """
        leaf, dtype = self._leaf, np.dtype(self.target.wanted.dtype)
        grid = leaf.grid
        saved = region
        if base is not None:
            saved = within_shape(region, leaf.shape)
            if any(part.start >= part.stop for part in saved):
                return np.asarray(base)
        numbers = grid.overlapping(saved)
        if base is None and len(numbers) == 1 and grid.region(numbers[0]) == region:
            return self._shard(numbers[0]).astype(dtype, copy=False)
        result = np.empty(shape_of(region), dtype) if base is None else np.array(base)
        for number in numbers:
            both = common(saved, grid.region(number))
            shard = self._shard(number)
            result[within(both, region)] = shard[within(both, grid.region(number))]
        return result

    def _shard(self, number: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            self._last = None  # frees the memory before the next is read
            leaf = self._leaf
            shard = Reader.read(self._array, leaf.grid.region(number))
            if crc32(shard.reshape(-1).view(np.uint8).data) != leaf.checksums[number]:
                raise WrongShardError(self.target.path)
            self._last = number, shard
        return self._last[1]
