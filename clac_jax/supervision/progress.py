"""The progress of a run, as seen from outside: the step of its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etils import epath

from clac_jax.bucket.mirror import mirror_folder
from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.errors import UserError
from clac_jax.files.paths import local_path
from clac_jax.stores.url import is_url, parse_url


def folder_of(arguments: Sequence[str]) -> Path | None:
    """The local folder in which a training works: its workdir, or its copy of one in a bucket.

    Args:
        arguments: the flags of `clac-jax train`.

    Returns:
        The folder, which may not exist; None if the flags do not name one.
    """
    workdir, scratch = _value(arguments, "workdir"), _value(arguments, "config.bucket.scratch")
    try:
        if is_url(workdir):
            return mirror_folder(str(parse_url(workdir)), scratch)
        return local_path(workdir, "--workdir") if workdir else None
    except UserError:  # the training reports it
        return None


def newest_step(folder: Path | None) -> int | None:
    """The step of the newest checkpoint in a folder; -1 without one, None if that is unknown.

    The names in the folder are enough: nothing is opened.
    """
    if folder is None or not folder.is_dir():
        return None
    try:
        steps = step_folders(epath.Path(folder) / CHECKPOINTS)
    except (OSError, UserError):
        return None
    return max(steps, default=-1)


def _value(arguments: Sequence[str], name: str) -> str:
    """The value of a flag; "" if it is missing."""
    result = ""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            result = value if equals else "".join(arguments[place + 1 : place + 2])
    return result
