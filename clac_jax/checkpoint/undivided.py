"""A state that one process saves, of which the arrays that do not change are stored once."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from clac_jax.checkpoint import parts
from clac_jax.checkpoint.arrays import (
    HostBuffers,
    describe,
    has_same_bits,
    saving_handler,
)
from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.database import Reader, write_database
from clac_jax.checkpoint.division import divide, num_bytes
from clac_jax.checkpoint.files import UnreadableCheckpointError, describe_files
from clac_jax.checkpoint.groups import ARRAYS_FILE, Content, Group, groups_of, regroup
from clac_jax.checkpoint.layout import (
    STATE,
    CheckpointFormatError,
    Leaf,
    read_info,
    step_folders,
)
from clac_jax.checkpoint.removal import remove
from clac_jax.checkpoint.shard_handler import WrittenArray
from clac_jax.checkpoint.sharing import Files, Sharing
from clac_jax.checkpoint.stored import Shapes, Stored, WrongCopyError
from clac_jax.digests.digest import NO_DIGESTS, Digest
from clac_jax.digests.host import state_digests
from clac_jax.files import protocol


class UndividedState:
    """All arrays of a state: they are replicated, or there is only one device.

    Orbax writes the arrays that change. The others are in groups: databases that are linked from an
    earlier checkpoint if its bytes are the same, and written otherwise. What changes is found by
    comparing the state with the copy of it that the save before has left in memory: every bit
    counts, whatever the config calls frozen.
    """

    def __init__(
        self, shapes: Shapes, constant: Collection[str] = (), sharing: Sharing | None = None
    ):
        """Allocates nothing yet.

        Args:
            shapes: slash path -> shape and dtype of every array.
            constant: paths that are not expected to change: the first save of a run puts them into
                a group. Later ones look at the bits only.
            sharing: finds groups in earlier checkpoints; without one, nothing is shared.
        """
        self._shapes, self._constant = shapes, constant
        self._sharing = sharing or Sharing(is_wanted=False)
        self._division = divide(shapes)
        self._names = (f"{os.urandom(4).hex()}{number}" for number in itertools.count())
        self._arrays: Mapping[str, np.ndarray] = {}
        self._leaves: dict[str, Leaf] = {}  # of the arrays in memory, as far as known
        self._unchanged: set[str] = set()
        self._divided: list[frozenset[str]] | None = None  # None before the first save
        self._groups: list[Group] = []
        self._linked: dict[str, Files] = {}  # name of a group -> its files
        self._folder: Path | None = None

    @functools.cached_property
    def _buffers(self) -> HostBuffers[str]:
        return HostBuffers(self._shapes)

    def allocate(self) -> None:
        """See `Snapshot.allocate`."""
        self._buffers  # noqa: B018

    def copy(self, arrays: Mapping[str, Any]) -> None:
        """See `Snapshot.copy`."""
        self._arrays = self._buffers.fill(arrays)
        self._unchanged = self._buffers.unchanged & self._leaves.keys()
        for path in self._leaves.keys() - self._unchanged:
            del self._leaves[path]

    def handler(self) -> ocp.PyTreeCheckpointHandler:
        """Orbax's own for the arrays that it writes, ours for those in groups."""
        return saving_handler()

    def reuse(self, directory: Path, step: int) -> Shapes:
        """See `Snapshot.reuse`."""
        if self._folder is not None:
            remove(self._folder)  # of an attempt that failed
        self._folder = parts.parts_folder(directory, step, next(self._names))
        new = {path: array for path, array in self._arrays.items() if path not in self._leaves}
        self._leaves |= describe(new)
        self._groups, self._linked = [], {}
        if not self._sharing.is_possible(directory):
            return self._shapes
        self._groups = self._regrouped(directory)
        for group in self._groups:
            target, holds = self._folder / group.name, functools.partial(self._holds, group)
            files = self._sharing.adopt(group.name, directory, target, holds)
            if files is not None:
                self._linked[group.name] = files
        linked = {path for g in self._groups if g.name in self._linked for path in g.arrays}
        return {path: leaf for path, leaf in self._shapes.items() if path not in linked}

    def store(
        self, directory: Path, step: int, digests: Mapping[str, Digest] = NO_DIGESTS
    ) -> Stored:
        """Writes the groups that no earlier checkpoint has; Orbax writes the other arrays.

        Raises:
            WrongCopyError: the arrays are not those that were on the devices.
        """
        del directory, step
        copied = state_digests(self._arrays) if digests else {}
        for part, digest in digests.items():
            if copied[part] != digest:
                raise WrongCopyError(
                    f"The copy of the state in host memory differs from that on the device ({part})"
                    ", so it was not saved: the memory of this machine or the transfer from its "
                    "device is faulty. Start the same command again, on a different machine if "
                    "this returns."
                )
        folder = self._folder
        assert folder is not None
        for group in self._groups:
            if group.name not in self._linked:
                self._linked[group.name] = self._write(group, folder / group.name)
        databases = dict(self._linked)

        def add_databases(state: Path) -> None:
            for name, files in sorted(databases.items()):
                parts.add_database(folder / name, state / name, files)
                protocol.reached("group added")

        tree: dict[str, Any] = dict(self._arrays)
        for path in {path for group in self._groups for path in group.arrays}:
            leaf = self._shapes[path]
            tree[path] = WrittenArray(leaf.shape, np.dtype(leaf.dtype), add_databases)
        files = {
            f"{STATE}/{name}/{file}": facts
            for name, listed in databases.items()
            for file, facts in listed.items()
        }
        return Stored(tree, {path: self._leaves[path] for path in tree}, files, digests=digests)

    def finish(self, folder: Path) -> None:
        """Shares Orbax's description of the arrays, too: it is large and rarely changes."""
        if self._groups:
            self._sharing.relink(f"{STATE}/_METADATA", folder)

    def clear(self) -> None:
        """Removes the folder of the groups, whose files the checkpoint shares.

        Raises:
            OSError: it cannot be removed.
        """
        if self._folder is not None:
            remove(self._folder)

    def _regrouped(self, directory: Path) -> list[Group]:
        unchanged, divided = self._unchanged, self._divided
        if divided is None:
            unchanged, divided = self._compared(directory)
        sizes = {path: num_bytes(leaf.shape, leaf.dtype) for path, leaf in self._shapes.items()}
        self._divided = regroup(divided, unchanged, sizes)
        return [self._group(paths) for paths in self._divided]

    def _compared(self, directory: Path) -> tuple[set[str], list[frozenset[str]]]:
        """The parts in common with the newest checkpoint: arrays, and complete groups.

        Without a checkpoint, the arrays that are not expected to change.
        """
        for folder in reversed(step_folders(epath.Path(directory)).values()):
            try:
                leaves = read_info(folder).leaves
            except (DamagedCheckpointError, UnreadableCheckpointError, CheckpointFormatError):
                continue
            groups = [frozenset(g.arrays) for g in groups_of(Path(folder)) if self._has(g)]
            return {path for path, leaf in self._leaves.items() if leaves.get(path) == leaf}, groups
        return set(self._constant), []

    def _has(self, group: Group) -> bool:
        if not all(self._leaves.get(path) == each.leaf for path, each in group.arrays.items()):
            return False
        return self._group(group.arrays).name == group.name

    def _group(self, paths: Collection[str]) -> Group:
        leaves = {path: self._leaves[path] for path in sorted(paths)}
        return Group({path: Content(leaf, leaf.sha256) for path, leaf in leaves.items()})

    def _holds(self, group: Group, database: Path) -> bool:
        """Whether a database holds these arrays, bit by bit."""
        reader = Reader(database)
        try:
            return all(
                has_same_bits(
                    reader.read(reader.open(path), self._division[path].grid.region(0)),
                    self._arrays[path],
                )
                for path in group.arrays
            )
        except ValueError:  # TensorStore's, for a database that it cannot read
            return False

    def _write(self, group: Group, database: Path) -> Files:
        remove(database)
        database.parent.mkdir(exist_ok=True)  # not its parents: the run may have been moved
        protocol.reached("group started")
        write_database(database, self._division, {p: {0: self._arrays[p]} for p in group.arrays})
        (database / ARRAYS_FILE).write_text(group.to_text(), encoding="utf-8")
        files = describe_files(database)
        protocol.reached("group written")
        self._sharing.keep(database, files)
        return files
