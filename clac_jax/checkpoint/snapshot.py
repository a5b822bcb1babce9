"""The copy of a state in host memory that a save writes: all of it, or this process's part."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp

from clac_jax.checkpoint import parts
from clac_jax.checkpoint.arrays import (
    HostBuffers,
    saving_handler,
)
from clac_jax.checkpoint.division import Divided, divide, is_sharded, num_bytes
from clac_jax.checkpoint.layout import STATE
from clac_jax.checkpoint.remote import Remote
from clac_jax.checkpoint.shard_handler import WrittenArray
from clac_jax.checkpoint.shards import region_of
from clac_jax.checkpoint.sharing import Sharing
from clac_jax.checkpoint.stored import Shapes, Stored
from clac_jax.checkpoint.undivided import UndividedState
from clac_jax.digests.digest import NO_DIGESTS, Digest
from clac_jax.files import protocol

# Arrays are copied off an accelerator in groups of this size, each of which takes host memory
# besides the buffers while it is copied.
GROUP_BYTES = 64 << 20


class Snapshot(Protocol):
    """A copy of a state in host memory."""

    def allocate(self) -> None:
        """Allocates the memory, which takes longer than a copy."""

    def copy(self, arrays: Mapping[str, Any]) -> None:
        """Copies the arrays, given by slash path, after the previous copy has been saved."""

    def handler(self) -> ocp.PyTreeCheckpointHandler:
        """Orbax's handler for `Stored.tree`."""

    def reuse(self, directory: Path, step: int) -> Shapes:
        """Links what earlier checkpoints have already; returns the arrays that will be written.

        Comes before `store`, and may be repeated after a failure.
        """

    def store(
        self, directory: Path, step: int, digests: Mapping[str, Digest] = NO_DIGESTS
    ) -> Stored:
        """Prepares the copy to be saved in a `checkpoints/`; may be repeated after a failure.

        Args:
            directory: the `checkpoints/`.
            step: the step of the checkpoint.
            digests: those of the state on the devices, by part; empty if they are unknown.
        """

    def finish(self, folder: Path) -> None:
        """Links more files of a checkpoint that Orbax has written and that is not committed."""

    def clear(self) -> None:
        """Removes what `store` has left besides the checkpoint."""


def snapshot_of(
    shapes: Shapes, constant: Collection[str] = (), sharing: Sharing | None = None
) -> UndividedState | StateInParts:
    """A snapshot for a state with these arrays; in parts if any of them is sharded.

    Args:
        shapes: slash path -> shape and dtype, and the sharding of a sharded array.
        constant: paths of arrays that are not expected to change, see `UndividedState`.
        sharing: shares files with earlier checkpoints; not those of a state in parts.
    """
    if is_sharded(shapes):
        return StateInParts(divide(shapes), jax.process_index())
    return UndividedState(shapes, constant, sharing)


class StateInParts:
    """The shards that this process owns, which it writes itself.

    Attributes:
        save_names: prefix of the names of this run's saves: equal in all its processes, and
            different after each start. They all save the same states in the same order.
        is_lost: set when a process of the run is lost.
        exchange: brings the parts to the first process.
    """

    def __init__(self, division: Mapping[str, Divided], index: int):
        """Allocates nothing yet.

        Args:
            division: slash path -> the array and its shards.
            index: index of this process.
        """
        self.save_names = os.urandom(4).hex()
        self.is_lost = threading.Event()
        self.exchange: parts.Exchange = parts.SharedFolder()
        self._division, self._index = division, index
        self._count = itertools.count()
        self._name = ""
        self._pieces: dict[str, dict[int, np.ndarray]] = {}
        self._own: parts.Part | None = None
        self._folder: Path | None = None

    @functools.cached_property
    def _buffers(self) -> HostBuffers[tuple[str, int]]:
        return HostBuffers(self._owned_shapes())

    def allocate(self) -> None:
        """See `Snapshot.allocate`."""
        self._buffers  # noqa: B018

    def copy(self, arrays: Mapping[str, Any]) -> None:
        """See `Snapshot.copy`; the arrays may be sharded over devices of other processes."""
        self._name = f"{self.save_names}{next(self._count)}"
        self._own, self._pieces = None, {path: {} for path in self._division}
        for group in self._groups():
            buffers = self._buffers.fill(
                {key: _shard(arrays[key[0]], self._division[key[0]], key[1]) for key in group}
            )
        for (path, number), buffer in buffers.items():
            self._pieces[path][number] = buffer

    def handler(self) -> ocp.PyTreeCheckpointHandler:
        """Orbax's, with ours for arrays that are saved by shards."""
        return saving_handler()

    def reuse(self, directory: Path, step: int) -> Shapes:
        """Links nothing: the shards of a process are all in one database."""
        del directory, step
        return {
            path: jax.ShapeDtypeStruct(divided.shape, divided.dtype)
            for path, divided in self._division.items()
        }

    def write(self, directory: Path, step: int) -> parts.Part:
        """Writes this process's part, and makes it known, unless that is done.

        Raises:
            OSError, ValueError, UserError: that fails; TensorStore raises a `ValueError`.
        """
        if self._own is None:
            self._folder = parts.parts_folder(directory, step, self._name)
            own = parts.write_part(self._folder, self._index, self._division, self._pieces)
            self.exchange.publish(self._folder, self._index, own.to_json())
            protocol.reached("part noted")
            self._own = own
        return self._own

    def report_failure(self, reason: str) -> None:
        """Makes known that this part will not be written, so that the first process stops waiting.

        Raises:
            OSError, UserError: that fails, too.
        """
        if self._folder is not None:
            self.exchange.publish(self._folder, self._index, {"failure": reason})

    def store(
        self, directory: Path, step: int, digests: Mapping[str, Digest] = NO_DIGESTS
    ) -> Stored:
        """Writes this process's part and waits for the others.

        Raises:
            LostPartError: a part will never be complete.
            OSError, ValueError, UserError: a file cannot be read or written.
        """
        found = {self._index: self.write(directory, step)}
        folder, exchange = self._folder, self.exchange
        assert folder is not None
        present = {self._index: found[self._index].files}
        for index in self._owners - {self._index}:
            read = functools.partial(exchange.read, folder, index)
            found[index] = parts.wait_for_part(read, index, self.is_lost)
            names = exchange.fetch(folder, index, found[index])
            present[index] = {name: found[index].files[name] for name in names}

        def add_databases(state: Path) -> None:
            for index, files in sorted(present.items()):
                source, target = (parts.database_of(place, index) for place in (folder, state))
                parts.add_database(source, target, files)
                protocol.reached("part added")

        files = {
            f"{STATE}/{parts.database_of(Path(), index)}/{name}": values
            for index, part in found.items()
            for name, values in part.files.items()
        }
        elsewhere = {
            f"{STATE}/{parts.database_of(Path(), index)}/{name}": (size, crc)
            for index, part in found.items()
            for name, (size, crc) in part.files.items()
            if name not in present[index]
        }
        return Stored(
            tree={
                path: WrittenArray(divided.shape, divided.dtype, add_databases)
                for path, divided in self._division.items()
            },
            leaves=parts.combine(self._division, found),
            files=files,
            remote=Remote(exchange.remote(step), elsewhere) if elsewhere else None,
            digests=digests,  # no process has a copy of everything to compare with them
        )

    def finish(self, folder: Path) -> None:
        """Does nothing."""

    def clear(self) -> None:
        """Removes the parts.

        Raises:
            OSError, UserError: they cannot be removed.
        """
        if self._folder is not None:
            self.exchange.clear(self._folder, self._owners)

    @functools.cached_property
    def _owners(self) -> set[int]:
        owners = {owner for divided in self._division.values() for owner in divided.owners}
        return owners | {self._index}

    def _owned_shapes(self) -> dict[tuple[str, int], jax.ShapeDtypeStruct]:
        return {
            (path, number): jax.ShapeDtypeStruct(divided.grid.shard_shape, divided.dtype)
            for path, divided in self._division.items()
            for number in divided.owned_by(self._index)
        }

    def _groups(self) -> list[list[tuple[str, int]]]:
        """The shards that this process owns, in groups of about `GROUP_BYTES`."""
        groups: list[list[tuple[str, int]]] = [[]]
        size = 0
        for key, leaf in self._owned_shapes().items():
            size += num_bytes(leaf.shape, np.dtype(leaf.dtype))
            if size > GROUP_BYTES and groups[-1]:
                groups.append([])
                size = num_bytes(leaf.shape, np.dtype(leaf.dtype))
            groups[-1].append(key)
        return groups


def _shard(array: Any, divided: Divided, number: int) -> Any:
    """One shard of an array: of a JAX array the copy on a device of this process."""
    region = divided.grid.region(number)
    if isinstance(array, jax.Array) and not array.is_fully_replicated:
        for shard in array.addressable_shards:
            if region_of(shard.index, array.shape) == region:
                return shard.data
    if isinstance(array, jax.Array) and len(array.sharding.device_set) > 1:
        array = array.addressable_data(0)
    return array if divided.grid.shard_shape == divided.shape else array[region]
