"""Orbax's `CheckpointManager` as this program uses it, and what it does not notice by itself."""

from __future__ import annotations

import errno
import os
import re

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from clac_jax.checkpoint.arrays import only_this_process
from clac_jax.checkpoint.layout import DELETED, MERGED, RUN, STATE
from clac_jax.checkpoint.quiet import quiet_threads
from clac_jax.checkpoint.removal import remove
from clac_jax.errors import UserError, one_line
from clac_jax.files.paths import explain

_OS_ERROR = re.compile(r"os[ _]error(?:_code)?\W+(\d+)", re.IGNORECASE)  # as TensorStore says it


def open_manager(directory: epath.Path) -> ocp.CheckpointManager:
    """Orbax's manager of a `checkpoints/`, which never removes anything by itself."""
    quiet_threads()
    one = only_this_process()
    return ocp.CheckpointManager(
        directory,
        item_handlers={
            STATE: ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=one),
            RUN: ocp.JsonCheckpointHandler(multiprocessing_options=one),
        },
        options=ocp.CheckpointManagerOptions(
            # All of them: `Retention` decides, once the new checkpoint has its checksums.
            preservation_policy=checkpoint_managers.LatestN(),
            enable_async_checkpointing=False,  # the entire save is in a thread of ours
            cleanup_tmp_directories=False,  # `finish_interrupted` does it
            todelete_subdir=DELETED,
            create=False,  # done, and not possible where other processes take no part
            lightweight_initialize=True,  # reads nothing of the checkpoints, damaged or not
            multiprocessing_options=one,
        ),
    )


def check_written(folder: epath.Path, mark: epath.Path) -> None:
    """Looks for what Orbax does not notice.

    It makes folders that are gone once more, and leaves the arrays unmerged, where nothing finds
    them, if it cannot list their files.

    Args:
        folder: of the step that was saved.
        mark: the file that says that the step is being written.

    Raises:
        OSError: the save is to be tried again; nothing that looks like a checkpoint is there.
    """
    merged = folder / STATE / MERGED
    if not os.path.lexists(mark):  # without which the folder would count as damaged
        remove(folder)
        raise FileNotFoundError(errno.ENOENT, "The folder was taken away during the save", mark)
    if not os.path.lexists(merged):
        raise OSError(errno.EIO, os.strerror(errno.EIO), merged)


def failure_reason(error: Exception) -> str:
    """What an error of a save says, in one line, and what to do."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return explain(error)
    code = _OS_ERROR.search(str(error))
    if code:
        return explain(OSError(int(code[1]), os.strerror(int(code[1]))))
    return f"{one_line(f'{type(error).__name__}: {error}', 500)}."
