"""The division of a state between the processes of a run: who saves which shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from clac_jax.checkpoint.shards import Grid, region_of

SMALL_ARRAY = 1 << 20  # bytes


@dataclass(frozen=True)
class Divided:
    """An array of a state, and how its shards are divided between the processes of the run.

    Attributes:
        grid: the shards; a replicated array has one, all of it.
        dtype: dtype of the array.
        owners: for each shard, the index of the process that saves it.
    """

    grid: Grid
    dtype: np.dtype
    owners: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.grid.shape

    def owned_by(self, index: int) -> list[int]:
        """The numbers of the shards that a process saves."""
        return [number for number, owner in enumerate(self.owners) if owner == index]


def is_sharded(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> bool:
    """Whether any array of a state is sharded over devices."""
    return any(leaf.sharding is not None for leaf in shapes.values())


def spans_processes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> bool:
    """Whether any array of a state is sharded over devices of several processes."""
    return len(_processes(shapes)) > 1


def divide(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Divided]:
    """Divides a state: each process saves the shards on its devices, and some replicated arrays.

    Large ones of those go to the process with the fewest bytes so far, the largest first; small
    ones, which every process needs to resume, to the first process.

    Args:
        shapes: slash path -> shape and dtype; the sharding of an array that is sharded.
    """
    divided: dict[str, Divided] = {}
    loads = dict.fromkeys(_processes(shapes), 0)
    for path, leaf in shapes.items():
        if leaf.sharding is not None:
            grid = Grid(leaf.shape, tuple(leaf.sharding.shard_shape(leaf.shape)))
            owners: dict[int, int] = {}
            for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
                number = grid.number(region_of(index, leaf.shape))
                owners[number] = min(owners.get(number, device.process_index), device.process_index)
            divided[path] = Divided(
                grid, np.dtype(leaf.dtype), tuple(owners[number] for number in range(len(grid)))
            )
            for owner in divided[path].owners:
                loads[owner] += num_bytes(grid.shard_shape, leaf.dtype)
    replicated = [path for path, leaf in shapes.items() if leaf.sharding is None]
    sizes = {path: num_bytes(shapes[path].shape, shapes[path].dtype) for path in replicated}
    for path in sorted(replicated, key=lambda name: (-sizes[name], name)):
        leaf, owner = shapes[path], min(loads)
        if sizes[path] > SMALL_ARRAY:
            owner = min(loads, key=lambda index: (loads[index], index))
        loads[owner] += sizes[path]
        divided[path] = Divided(Grid(leaf.shape, leaf.shape), np.dtype(leaf.dtype), (owner,))
    return {path: divided[path] for path in shapes}


def num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Size of an array, bytes."""
    return math.prod(shape) * np.dtype(dtype).itemsize


def _processes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> list[int]:
    """The processes with devices that hold the state; this one if nothing is sharded."""
    found = {
        device.process_index
        for leaf in shapes.values()
        if leaf.sharding is not None
        for device in leaf.sharding.device_set
    }
    return sorted(found) or [jax.process_index()]
