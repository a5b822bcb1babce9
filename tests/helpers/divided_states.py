"""Small states as plain arrays, divided between processes that need not run JAX together."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.part_writer import PartCheckpoints
from clac_jax.checkpoint.parts import SharedFolder
from helpers.states import make_config

# path -> shape, and the axis along which it is sharded.
ARRAYS = {
    "params/a/kernel": ((12, 500), 0),
    "params/b/kernel": ((3, 1200), 1),
    "params/b/bias": ((7,), None),
    "opt_state/a/kernel": ((12, 500), 0),
    "opt_state/count": ((), None),
    "step": ((), None),
}


class Device(NamedTuple):
    number: int
    process_index: int


class Blocks:
    """Looks like a sharding of JAX: equal blocks along one axis, one per device."""

    def __init__(self, axis, processes, devices):
        self._axis = axis
        self._devices = [Device(k, k * processes // devices) for k in range(devices)]
        self.device_set = set(self._devices)

    def shard_shape(self, shape):
        count = len(self._devices)
        return tuple(n // count if axis == self._axis else n for axis, n in enumerate(shape))

    def devices_indices_map(self, shape):
        size = self.shard_shape(shape)[self._axis]
        everywhere = [slice(None)] * len(shape)
        return {
            device: tuple(
                [*everywhere[: self._axis], slice(device.number * size, (device.number + 1) * size)]
                + everywhere[self._axis + 1 :]
            )
            for device in self._devices
        }


def arrays_at(step):
    """Arrays that differ in every element from those of a different step."""
    made = {}
    for path, (shape, _) in ARRAYS.items():
        numbers = np.arange(np.prod(shape, dtype=int), dtype=np.float32) / 7 + 100 * step
        made[path] = numbers.reshape(shape) if shape else np.asarray(step, np.int32)
    return made


def shapes_among(processes, devices=None):
    """The shapes of these arrays, sharded over devices of several processes."""
    shapes = {}
    for path, array in arrays_at(0).items():
        axis = ARRAYS[path][1]
        sharding = None if axis is None else Blocks(axis, processes, devices or processes)
        shapes[path] = SimpleNamespace(shape=array.shape, dtype=array.dtype, sharding=sharding)
    return shapes


def open_checkpoints(workdir, index, processes, names="run", **options):
    """The checkpoints of a run in one of its processes, which save in parts."""
    config, shapes = make_config(**{"save_top_k": -1, **options}), shapes_among(processes)
    if index:
        checkpoints = PartCheckpoints(workdir, config, shapes, index)
    else:
        checkpoints = Checkpoints(workdir, config, shapes, 100)
    checkpoints.share_saves(names, SharedFolder())
    return checkpoints
