"""Steps on all devices, by pmap or by shard_map: same step and same checkpoints for both.

Both take host batches whose leaves start with an axis over this process's devices, and a host state
without a device axis.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clac_jax.digests.device import Division, by_path, state_digests
from clac_jax.distributed.sending import each_from_first
from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.losses import Loss
from clac_jax.training.state import TrainState
from clac_jax.training.step import AXIS, TrainStep, make_gradients, make_train_step, make_update

REPLICATED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Parallel(abc.ABC):
    """A way to run a one-device step on all devices."""

    @abc.abstractmethod
    def train(
        self, trainable: Any, schedule: optax.Schedule, loss: Loss, digests: bool = False
    ) -> TrainStep:
        """The training step; it reuses the buffers of the old state for the new one.

        Arguments as for `step.make_train_step`.
        """

    @abc.abstractmethod
    def digest(self, template: TrainState) -> Callable[[TrainState], dict[str, jax.Array]]:
        """A function from a state to its digests, see `digests.device.state_digests`.

        Args:
            template: shapes and dtypes of the state.
        """

    @abc.abstractmethod
    def evaluate(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """Maps `eval_step(state, batch)` over all devices; its result is the same on each one."""

    @abc.abstractmethod
    def put(self, tree: Any) -> Any:
        """Copies a tree of host arrays, the state or part of it, to the devices."""

    @property
    def local_devices(self) -> Sequence[Any]:
        """The devices of this process."""
        return list(jax.local_devices())

    @abc.abstractmethod
    def describe(self, tree: Any) -> Any:
        """The state, or part of it, as shapes and dtypes, with the sharding of what is sharded.

        Args:
            tree: a state without a device axis, or its shapes.
        """

    @abc.abstractmethod
    def local(self, tree: Any) -> Any:
        """The arrays on the devices that this process saves; nothing is copied or communicated.

        Sharded arrays stay as they are; others are on one local device, possibly with leading axes
        of length 1.
        """

    @abc.abstractmethod
    def is_local(self, tree: Any) -> bool:
        """Whether the entire tree is on local devices, so that no other one has to save."""

    @abc.abstractmethod
    def to_host(self, tree: Any) -> Any:
        """The tree as NumPy arrays without a device axis.

        A collective if arrays are sharded: every process must then call it.
        """

    @abc.abstractmethod
    def copies(self, tree: Any) -> list[Any]:
        """Replicated arrays as NumPy arrays, once for each local device that has a copy."""

    def initialize(
        self,
        make: Callable[[], dict[str, Any]],
        create: Callable[[dict[str, Any]], TrainState],
        template: TrainState,
    ) -> TrainState:
        """A fresh state; a collective if arrays are sharded, like `to_host`.

        Args:
            make: returns the initial variables of the model.
            create: makes a state from them, by operations on their arrays only.
            template: shapes and dtypes of the state.
        """
        del template
        return create(make())


class Pmap(Parallel):
    """pmap: every local device holds a copy of the entire state."""

    def __init__(self, devices: Sequence[Any] | None = None):
        """Over the devices of all processes.

        Args:
            devices: another order of the devices, for the only process of a run.
        """
        self._given = devices

    @property
    def local_devices(self) -> Sequence[Any]:
        """See `Parallel.local_devices`; in the order of the parts of a batch."""
        return self._given or super().local_devices

    def train(
        self, trainable: Any, schedule: optax.Schedule, loss: Loss, digests: bool = False
    ) -> TrainStep:
        """See `Parallel.train`."""
        step = make_train_step(trainable, schedule, loss, digests=digests)
        mapped: TrainStep = jax.pmap(step, axis_name=AXIS, donate_argnums=(0,), devices=self._given)
        return mapped

    def digest(self, template: TrainState) -> Callable[[TrainState], dict[str, jax.Array]]:
        """See `Parallel.digest`."""
        del template
        mapped: Callable[..., dict[str, jax.Array]] = jax.pmap(state_digests, axis_name=AXIS)
        return mapped

    def evaluate(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """See `Parallel.evaluate`."""
        mapped: Callable[..., Any] = jax.pmap(eval_step, axis_name=AXIS, devices=self._given)
        return mapped

    def put(self, tree: Any) -> Any:
        """A copy on each local device, with a leading device axis.

        The copies have no weak types and are sharded along the step's axis, like the state that a
        step returns: a step whose inputs and outputs differ in these respects compiles twice.
        """
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
        return self.joined(
            [jax.device_put(rows, device, may_alias=False) for device in self.local_devices]
        )

    def joined(self, trees: Sequence[Any]) -> Any:
        """Trees of arrays, one on each local device -> one tree; nothing is copied."""
        sharding = NamedSharding(Mesh(np.array(self.local_devices), (AXIS,)), SPLIT)

        def join(*shards: jax.Array) -> jax.Array:
            shape = (len(trees), *shards[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, shards)

        return jax.tree.map(join, *trees)

    def describe(self, tree: Any) -> Any:
        """See `Parallel.describe`; nothing is sharded."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def local(self, tree: Any) -> Any:
        """The first local device's arrays, each with a leading axis of 1."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def is_local(self, tree: Any) -> bool:
        """Always True."""
        del tree
        return True

    def to_host(self, tree: Any) -> Any:
        """See `Parallel.to_host`."""
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)

    def copies(self, tree: Any) -> list[Any]:
        """See `Parallel.copies`."""
        return [jax.tree.map(lambda leaf: leaf[0], copy) for copy in _local_shards(tree)]


class ShardMap(Parallel):
    """shard_map over one mesh of all devices; large arrays may be sharded over it.

    The gradient is computed by the one-device step. The optimizer runs outside it, where XLA
    divides the work on an array in the same way as the array: sharded moments are updated in place
    on their device (ZeRO, arXiv:1910.02054), sharded parameters are gathered for the forward pass.
    """

    def __init__(self, what: str = "nothing", min_elements: int = 1 << 16):
        """Over the devices of all processes.

        Args:
            what: which arrays are sharded: "nothing", the "optimizer" state, or "everything"
                (parameters, their average and optimizer state).
            min_elements: arrays with fewer elements are replicated.
        """
        self._mesh = Mesh(np.array(jax.devices()), (AXIS,))
        self._what = what
        self._min_elements = min_elements

    def train(
        self, trainable: Any, schedule: optax.Schedule, loss: Loss, digests: bool = False
    ) -> TrainStep:
        """See `Parallel.train`."""
        gradients = self._mapped(make_gradients(trainable, loss, digests=digests))
        update = make_update(schedule)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
            after, metrics = update(state, gradients(state.replace(opt_state=(), ema=None), batch))
            # With the input's sharding, so that the next call matches the compiled program.
            return jax.lax.with_sharding_constraint(after, self._shardings(after)), metrics

        compiled = jax.jit(step, donate_argnums=(0,))
        return lambda state, batch: compiled(state, self._global(batch))

    def digest(self, template: TrainState) -> Callable[[TrainState], dict[str, jax.Array]]:
        """See `Parallel.digest`; each device adds up its shards of the sharded arrays."""
        shardings = self._shardings(template)
        axes = {
            path: tuple(sharding.spec).index(AXIS)
            for path, sharding in by_path(shardings).items()
            if not sharding.is_fully_replicated
        }
        division = Division(AXIS, self._mesh.size, axes)
        mapped = jax.shard_map(
            functools.partial(state_digests, division=division),
            mesh=self._mesh,
            in_specs=(jax.tree.map(lambda sharding: sharding.spec, shardings),),
            out_specs=REPLICATED,
            check_vma=False,
        )
        compiled: Callable[..., dict[str, jax.Array]] = jax.jit(mapped)
        return compiled

    def evaluate(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """See `Parallel.evaluate`."""
        compiled = jax.jit(self._mapped(eval_step))
        return lambda state, batch: compiled(state.replace(opt_state=()), self._global(batch))

    def put(self, tree: Any) -> Any:
        """Each array on all devices, replicated or sharded, unless it is on them."""
        return jax.tree.map(_placed, tree, self._shardings(tree))

    def describe(self, tree: Any) -> Any:
        """See `Parallel.describe`."""

        def describe(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            sharded = None if sharding.is_fully_replicated else sharding
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharded)

        return jax.tree.map(describe, tree, self._shardings(tree))

    def initialize(
        self,
        make: Callable[[], dict[str, Any]],
        create: Callable[[dict[str, Any]], TrainState],
        template: TrainState,
    ) -> TrainState:
        """See `Parallel.initialize`.

        Only the first process makes the variables. The rest of the state, which is at least as
        large if there are moments, is made in shards.
        """
        if all(leaf.sharding is None for leaf in jax.tree.leaves(self.describe(template))):
            return create(make())
        names = ("params", "batch_stats")
        everywhere = self._shardings(template)
        shapes, tree = jax.tree.flatten({name: getattr(template, name) for name in names})
        shardings = jax.tree.leaves({name: getattr(everywhere, name) for name in names})

        def leaves() -> list[Any]:
            variables = make()
            return jax.tree.leaves({name: variables.get(name, {}) for name in names})

        def state_of(variables: dict[str, Any]) -> TrainState:
            # With explicit dtypes, not weak types: see `Pmap.put`.
            state = create(variables)
            strict: TrainState = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
            return strict

        arrays = each_from_first(leaves, shapes)
        placed = [_placed(*pair) for pair in zip(arrays, shardings, strict=True)]
        state: TrainState = jax.jit(state_of, out_shardings=everywhere)(
            jax.tree.unflatten(tree, placed)
        )
        return state

    def local(self, tree: Any) -> Any:
        """See `Parallel.local`."""

        def local(leaf: jax.Array) -> jax.Array:
            return leaf.addressable_data(0) if leaf.is_fully_replicated else leaf

        return jax.tree.map(local, tree)

    def is_local(self, tree: Any) -> bool:
        """Whether no array of the tree is sharded over devices of other processes."""
        leaves = jax.tree.leaves(tree)
        return all(leaf.is_fully_replicated or leaf.is_fully_addressable for leaf in leaves)

    def to_host(self, tree: Any) -> Any:
        """See `Parallel.to_host`."""
        if not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
            everywhere = NamedSharding(self._mesh, REPLICATED)
            tree = jax.jit(lambda x: x, out_shardings=everywhere)(tree)
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)

    def copies(self, tree: Any) -> list[Any]:
        """See `Parallel.copies`."""
        return _local_shards(tree)

    def _mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps a one-device function (state, batch) over all devices, dropping the device axis."""

        def on_one(state: TrainState, batch: Batch) -> Any:
            return function(state, jax.tree.map(lambda leaf: leaf[0], batch))

        return jax.shard_map(
            on_one,
            mesh=self._mesh,
            in_specs=(REPLICATED, SPLIT),
            out_specs=REPLICATED,
            check_vma=False,
        )

    def _global(self, batch: Batch) -> Batch:
        """This process's part of a batch as its part of global arrays."""
        sharding = NamedSharding(self._mesh, SPLIT)
        everywhere: Batch = jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
        )
        return everywhere

    def _shardings(self, tree: Any) -> Any:
        """The sharding of each array of a state, or of part of it."""

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            part = str(getattr(path[0], "name", "")) if path else ""
            sharded = {"nothing": (), "optimizer": ("opt_state",)}.get(
                self._what, ("opt_state", "params", "ema")
            )
            spec = REPLICATED
            if part in sharded and np.size(leaf) >= self._min_elements:
                spec = self._along_one_axis(np.shape(leaf))
            return NamedSharding(self._mesh, spec)

        return jax.tree.map_with_path(sharding, tree)

    def _along_one_axis(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Shards the first axis that is divisible by the devices; replicates if there is none."""
        for axis, size in enumerate(shape):
            if size % self._mesh.size == 0:
                return PartitionSpec(*[None] * axis, AXIS)
        return REPLICATED


def _local_shards(tree: Any) -> list[Any]:
    """Each local device's shards of the arrays of a tree, on the host."""
    leaves, structure = jax.tree.flatten(tree)
    by_leaf = [
        [np.asarray(shard.data) for shard in sorted(leaf.addressable_shards, key=_device_number)]
        for leaf in leaves
    ]
    return [jax.tree.unflatten(structure, row) for row in zip(*by_leaf, strict=True)]


def _device_number(shard: Any) -> int:
    return int(shard.device.id)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """This process's shards of an array on its devices, unless they are on them."""
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    array = np.asarray(leaf)
    parts = sharding.addressable_devices_indices_map(array.shape)
    shards = [
        jax.device_put(array[part], device, may_alias=False) for device, part in parts.items()
    ]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, shards)
