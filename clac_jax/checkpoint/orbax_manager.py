"""Orbax's `CheckpointManager` as configured here, and checks that it does not make itself."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from clac_jax.checkpoint.arrays import only_this_process
from clac_jax.checkpoint.background import CheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, COMMITTED, DELETED, MERGED, RUN, STATE
from clac_jax.checkpoint.quiet import quiet_threads
from clac_jax.checkpoint.removal import remove
from clac_jax.distributed.workdir import check_writable
from clac_jax.errors import UserError, one_line
from clac_jax.files.paths import explain

_OS_ERROR = re.compile(r"os[ _]error(?:_code)?\W+(\d+)", re.IGNORECASE)  # TensorStore's wording


def open_directory(workdir: epath.PathLike) -> epath.Path:
    """The `checkpoints/` of a workdir, which is made if it is missing.

    Raises:
        CheckpointError: it cannot be used.
    """
    directory = epath.Path(workdir).resolve() / CHECKPOINTS
    try:
        directory.mkdir(parents=True, exist_ok=True)
        check_writable(Path(directory))
    except OSError as error:
        reason = explain(error)
        if os.path.islink(directory) and not directory.exists():
            target = os.readlink(directory)
            what = f"it is a link to {target}, which does not exist"
            reason = f"{what}. Mount it, or remove the link."
        raise CheckpointError(f"Cannot use {directory}: {reason}") from error
    return directory


def open_manager(
    directory: epath.Path, handler: ocp.PyTreeCheckpointHandler
) -> ocp.CheckpointManager:
    """Opens Orbax's manager of a `checkpoints/`; it never removes anything on its own.

    Args:
        directory: the run's `checkpoints/`.
        handler: saves the arrays.
    """
    quiet_threads()
    one = only_this_process()
    return ocp.CheckpointManager(
        directory,
        item_handlers={
            STATE: handler,
            RUN: ocp.JsonCheckpointHandler(multiprocessing_options=one),
        },
        options=ocp.CheckpointManagerOptions(
            # Keep all: `Retention` decides, once the new checkpoint has its checksums.
            preservation_policy=checkpoint_managers.LatestN(),
            enable_async_checkpointing=False,  # the entire save runs in our own thread
            cleanup_tmp_directories=False,  # done by `finish_interrupted`
            todelete_subdir=DELETED,
            create=False,  # exists; Orbax would need all processes to create it
            lightweight_initialize=True,  # does not read the checkpoints
            multiprocessing_options=one,
        ),
    )


def check_written(folder: epath.Path, mark: epath.Path) -> None:
    """Checks a save for failures that Orbax does not notice.

    It recreates folders that were removed, and leaves the arrays unmerged, where they cannot be
    read, if it cannot list their files.

    Args:
        folder: folder of the saved step.
        mark: the file that marks the step as being written.

    Raises:
        OSError: the save must be retried; nothing that looks like a checkpoint is left.
    """
    merged = folder / STATE / MERGED
    if not os.path.lexists(mark):  # without it the folder would count as damaged
        remove(folder)
        raise FileNotFoundError(errno.ENOENT, "The folder was taken away during the save", mark)
    if not os.path.lexists(merged):
        raise OSError(errno.EIO, os.strerror(errno.EIO), merged)


def failure_reason(error: Exception) -> str:
    """One line on why a save failed, and what to do."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return explain(error)
    code = _OS_ERROR.search(str(error))
    if code:
        return explain(OSError(int(code[1]), os.strerror(int(code[1]))))
    return f"{one_line(f'{type(error).__name__}: {error}', 500)}."


def mark_committed(folder: epath.Path) -> None:
    """Writes the files that Orbax treats as the commit in a bucket, which cannot rename folders."""
    for part in (folder / STATE, folder / RUN, folder):
        (part / COMMITTED).write_text("committed")
