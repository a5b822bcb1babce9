"""Whether the disk and the process can take the next checkpoint, before any of it is written.

A save that runs out of space or of file descriptors half-way leaves threads that report to nobody.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from typing import Protocol

import ml_collections
import numpy as np
from etils import epath

from clac_jax.checkpoint.retention import KEEP_ALL
from clac_jax.errors import UserError, warn
from clac_jax.files.paths import explain

OVERHEAD = 1 << 20  # bytes of a checkpoint beside its arrays: config, checksums, Orbax's own files


NEEDED_DESCRIPTORS = 24  # that Orbax and TensorStore open at a time for a small model


class Shaped(Protocol):
    """An array, or what describes one."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102


class CapacityError(UserError):
    """The disk or the process cannot take one checkpoint."""


def check(directory: epath.Path, arrays: Mapping[str, Shaped]) -> None:
    """Compares the free space with the size of one checkpoint, and opens some files for a moment.

    Args:
        directory: the `checkpoints/` of a run.
        arrays: slash path -> array, or its shape and dtype.

    Raises:
        OSError: ENOSPC, the checkpoint does not fit; EMFILE, files cannot be opened.
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
    """Says on standard error when the checkpoints that the run will keep do not all fit.

    Args:
        directory: the `checkpoints/` of the run.
        shapes: slash path -> shape and dtype of every array.
        num_there: checkpoints that are there already.
        config: of the run.

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
    if free < size:
        raise CapacityError(
            f"A checkpoint of this run takes {_mb(size)}, and {directory} has {_mb(free)} free. "
            "Free some space there, or choose a --workdir on another disk."
        )
    options = config.checkpoint
    if options.save_top_k == KEEP_ALL:
        kept = math.ceil(config.max_epochs / options.every_n_epochs)
    else:
        kept = options.save_top_k + 1  # and the last
    needed = (max(kept - num_there, 0) + 1) * size  # one more while it is written
    if free < needed:
        warn(
            f"{directory} has {_mb(free)} free, and this run will need about {_mb(needed)} there "
            f"for its checkpoints of {_mb(size)} each. Free some space before it is used up, or "
            "keep fewer of them (config.checkpoint.save_top_k)."
        )


def checkpoint_size(arrays: Mapping[str, Shaped]) -> int:
    """Bytes that a checkpoint of these arrays takes; they are saved without compression."""
    return OVERHEAD + sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays.values()
    )


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
    """Bytes that this user can still write there; None where the file system does not tell."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
