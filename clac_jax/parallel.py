"""The steps on all local devices: pmap, replication, and the device axis of states and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clac_jax.batch import Batch
from clac_jax.config import ConfigError
from clac_jax.step import AXIS


def check_batch_size(batch_size: int) -> int:
    """The examples that each device gets of a global batch.

    Raises:
        ConfigError: the batch cannot be split evenly over the devices of all processes.
    """
    num_devices = jax.device_count()
    if batch_size % num_devices:
        lower = batch_size - batch_size % num_devices
        raise ConfigError(
            f"A batch of {batch_size} cannot be split evenly over {num_devices} devices. "
            f"Use {lower + num_devices}" + (f" or {lower}." if lower else ".")
        )
    return batch_size // num_devices


def check_chunks(per_device: int, num_chunks: int) -> int:
    """The examples of a chunk, where each device encodes its part of a batch in so many.

    Raises:
        ConfigError: a device's examples cannot be split evenly into so many chunks.
    """
    if per_device % num_chunks:
        fitting = ", ".join(str(n) for n in range(1, per_device + 1) if per_device % n == 0)
        raise ConfigError(
            f"The {per_device} examples that each device gets of a batch cannot be split evenly "
            f"into gradient_cache_chunks = {num_chunks}. Use one of {fitting}, or another "
            "batch_size."
        )
    return per_device // num_chunks


def pmap_train(train_step: Any) -> Any:
    """`train_step` on all devices; the state's buffers are reused for the new state."""
    return jax.pmap(train_step, axis_name=AXIS, donate_argnums=(0,))


def pmap_eval(eval_step: Any) -> Any:
    """`eval_step` on all devices."""
    return jax.pmap(eval_step, axis_name=AXIS)


def replicate(tree: Any) -> Any:
    """A copy of the tree on each local device, with a leading device axis.

    Without weak types and sharded along the axis of the steps, like the state that a step returns:
    a step whose inputs and outputs differ in such things compiles twice.
    """
    devices = jax.local_devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
    copies = [jax.device_put(rows, device, may_alias=False) for device in devices]

    def join(*copies_of_leaf: jax.Array) -> jax.Array:
        shape = (len(devices), *copies_of_leaf[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, copies_of_leaf)

    return jax.tree.map(join, *copies)


def first(tree: Any) -> Any:
    """The first local device's values as NumPy arrays without the device axis."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)


def first_shards(tree: Any) -> Any:
    """The first local device's arrays, each with a leading axis of 1; nothing is copied."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def stack(parts: Sequence[Sequence[Batch]]) -> Batch:
    """Batches of equal shape with two leading axes: device, accumulation.

    Args:
        parts: one row per local device, one column per accumulated batch.
    """
    rows = [jax.tree.map(lambda *leaves: np.stack(leaves), *row) for row in parts]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def stack_devices(parts: Sequence[Batch]) -> Batch:
    """Batches of equal shape, one per local device, with one leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
