"""Checks that disk and process can take the next checkpoint before any of it is written.

A save that runs out of space or file descriptors half-way leaves threads whose errors are lost.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import ml_collections
import numpy as np
from etils import epath

from clac_jax.checkpoint.groups import MIN_BYTES, constant_paths, groups_of
from clac_jax.checkpoint.layout import step_folders
from clac_jax.checkpoint.retention import KEEP_ALL
from clac_jax.errors import UserError, warn
from clac_jax.files.paths import explain

OVERHEAD = 1 << 20  # bytes of a checkpoint besides its arrays: config, checksums, Orbax's own files


NEEDED_DESCRIPTORS = 24  # open at a time in Orbax and TensorStore, for a small model


class Shaped(Protocol):
    """An array, or a description of its shape and dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102


class CapacityError(UserError):
    """The disk or the process cannot take a checkpoint."""


def check(directory: epath.Path, arrays: Mapping[str, Shaped]) -> None:
    """Compares the free space with the size of one checkpoint, and briefly opens some files.

    Args:
        directory: the run's `checkpoints/`.
        arrays: slash path -> array, or its shape and dtype.

    Raises:
        OSError: ENOSPC if the checkpoint does not fit; EMFILE if files cannot be opened.
    """
    _open_some()
    free, size = _free(directory), checkpoint_size(arrays)
    if free is not None and free < size:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)} (a checkpoint takes {_mb(size)}, {_mb(free)} are free)",
        )


def check_at_start(
    directory: epath.Path,
    shapes: Mapping[str, Shaped],
    num_there: int,
    config: ml_collections.ConfigDict,
) -> None:
    """Warns on standard error if the checkpoints that the run will keep do not all fit.

    Args:
        directory: the run's `checkpoints/`.
        shapes: slash path -> shape and dtype of every array.
        num_there: number of existing checkpoints.
        config: the run's config.

    Raises:
        CapacityError: not even one fits, or too few files can be open at a time.
    """
    try:
        _open_some()
    except OSError as error:
        raise CapacityError(f"A checkpoint cannot be saved: {explain(error)}") from error
    free, size = _free(directory), checkpoint_size(shapes)
    if free is None:
        return
    constant = constant_paths(shapes, config) if config.checkpoint.share else set()
    linked = constant & _stored_once(directory)
    first = size - _bytes_of(shapes, linked)
    if free < first:
        raise CapacityError(
            f"A checkpoint of this run takes {_mb(first)}, and {directory} has {_mb(free)} free. "
            "Free some space there, or choose a --workdir on another disk."
        )
    options = config.checkpoint
    if options.save_top_k == KEEP_ALL:
        kept = math.ceil(config.max_epochs / options.every_n_epochs)
    else:
        kept = options.save_top_k + 1  # plus the last
    shared = _bytes_of(shapes, constant)
    shared = shared if shared >= MIN_BYTES else 0
    own = size - shared
    needed = first + max(kept - num_there, 0) * own  # the first of them is the one being written
    if free < needed:
        once = f", with {_mb(shared)} that they share" if shared else ""
        warn(
            f"{directory} has {_mb(free)} free, and this run will need about {_mb(needed)} there "
            f"for its checkpoints of {_mb(own)} each{once}. Free some space before it is used up, "
            "or keep fewer of them (config.checkpoint.save_top_k)."
        )


def checkpoint_size(arrays: Mapping[str, Shaped]) -> int:
    """Size of a checkpoint of these arrays, bytes; they are saved uncompressed."""
    return OVERHEAD + _bytes_of(arrays, arrays)


def _bytes_of(arrays: Mapping[str, Shaped], paths: Iterable[str]) -> int:
    leaves = [arrays[path] for path in paths]
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def _stored_once(directory: epath.Path) -> set[str]:
    """The arrays of the newest checkpoint that the next one can link."""
    newest = list(step_folders(directory).values())[-1:]
    return {path for folder in newest for group in groups_of(Path(folder)) for path in group.arrays}


def _open_some() -> None:
    """Opens as many files at a time as a save needs.

    Raises:
        OSError: EMFILE or ENFILE.
    """
    descriptors: list[int] = []
    try:
        for _ in range(NEEDED_DESCRIPTORS):
            descriptors.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _free(directory: epath.Path) -> int | None:
    """Free space for this user, bytes; None if the file system does not report it."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
