"""The sources of a restore: checkpoints of this program, and what other programs have written."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import ml_collections
import numpy as np

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.growing import Grow, growth_of
from clac_jax.checkpoint.layout import CheckpointInfo, Leaf
from clac_jax.checkpoint.matching import RestoreOptions, Source
from clac_jax.checkpoint.renaming import Saved
from clac_jax.errors import shown


@dataclass(frozen=True)
class SavedArray:
    """An array of a source, before it is read.

    Attributes:
        shape: its shape.
        dtype: NumPy name of its dtype.
        content: text that is equal for equal arrays; "" if that is unknown.
    """

    shape: tuple[int, ...]
    dtype: str
    content: str = ""


@dataclass(frozen=True)
class Arrays(abc.ABC):
    """The contents of one source.

    Attributes:
        name: the source as named by the user.
        leaves: slash path -> array; the first name is the part, as in a checkpoint of this program.
    """

    name: str
    leaves: Mapping[str, SavedArray]

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """The folder, file or URL."""

    @property
    def info(self) -> CheckpointInfo | None:
        """The description of a checkpoint of this program; None for everything else."""
        return None

    @abc.abstractmethod
    def read(self, paths: Collection[str]) -> Mapping[str, np.ndarray]:
        """Reads some arrays.

        Raises:
            UserError: the source is damaged or cannot be read.
        """

    def saved(self) -> Saved:
        """Shapes, and contents where they are known."""
        return Saved(
            {path: leaf.shape for path, leaf in self.leaves.items()},
            {path: leaf.content for path, leaf in self.leaves.items() if leaf.content},
        )


@dataclass(frozen=True)
class CheckpointArrays(Arrays):
    """A checkpoint of this program.

    Attributes:
        checkpoint: its description.
    """

    checkpoint: CheckpointInfo

    @property
    def place(self) -> str:
        """See `Arrays`."""
        return shown(self.checkpoint.folder)

    @property
    def info(self) -> CheckpointInfo | None:
        """See `Arrays`."""
        return self.checkpoint

    def read(self, paths: Collection[str]) -> Mapping[str, np.ndarray]:
        """See `Arrays`; the arrays are compared with their checksums."""
        return read_arrays(self.checkpoint, paths)


@dataclass(frozen=True)
class ForeignArrays(Arrays):
    """Arrays of another program.

    Attributes:
        kind: what wrote it, in a few words.
        where: the folder or file.
        reader: reads the arrays of some paths.
    """

    kind: str
    where: str
    reader: Callable[[Collection[str]], Mapping[str, np.ndarray]]

    @property
    def place(self) -> str:
        """See `Arrays`."""
        return f"{self.where} ({self.kind})"

    def read(self, paths: Collection[str]) -> Mapping[str, np.ndarray]:
        """See `Arrays`."""
        return self.reader(paths) if paths else {}


@dataclass(frozen=True)
class Wanted:
    """A source, and what is wanted of it (a member of `config.restore.sources`).

    Attributes:
        arrays: what it holds.
        options: what to restore of it.
        grow: what `on_shape_mismatch="grow"` does.
    """

    arrays: Arrays
    options: RestoreOptions
    grow: Grow | None = None

    @property
    def source(self) -> Source:
        """Names, shapes and options, for `matching.match_sources`."""
        return Source(self.arrays.saved(), self.options, self.grow)


def content_of(leaf: Leaf) -> str:
    """Text that is equal for arrays of equal shape, type and numbers, saved in equal pieces."""
    pieces = f" in {leaf.shard_shape}" if leaf.shard_crc32 else ""
    return f"{leaf.dtype} {leaf.shape} {', '.join(map(str, leaf.checksums))}{pieces}"


def of_checkpoint(info: CheckpointInfo, name: str = "") -> CheckpointArrays:
    """A checkpoint of this program as a source.

    Args:
        info: its description.
        name: as named by the user; by default its folder.
    """
    leaves = {
        path: SavedArray(leaf.shape, leaf.dtype, content_of(leaf))
        for path, leaf in info.leaves.items()
    }
    return CheckpointArrays(name or shown(info.folder), leaves, info)


def with_growth(sources: Iterable[Wanted], config: ml_collections.ConfigDict) -> list[Wanted]:
    """The sources, with how a config's model grows out of theirs where it is to grow."""
    return [
        dataclasses.replace(each, grow=growth_of(config, each.arrays.info))
        if each.options.on_shape_mismatch == "grow"
        else each
        for each in sources
    ]
