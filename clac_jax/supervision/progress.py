"""The progress of a run, as seen from outside: the step of its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.errors import UserError


def workdir_of(arguments: Sequence[str]) -> str:
    """The workdir that the flags of `clac-jax train` name; "" if there is none."""
    workdir = ""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--workdir", "-workdir"):
            workdir = value if equals else "".join(arguments[place + 1 : place + 2])
    return workdir


def newest_step(workdir: str) -> int | None:
    """The step of the newest checkpoint in a local workdir; -1 without one, None if unknown.

    The folder's names are enough: nothing is opened.
    """
    if not workdir or "://" in workdir:
        return None
    try:
        steps = step_folders(epath.Path(Path(workdir).expanduser()) / CHECKPOINTS)
    except (OSError, UserError):
        return None
    return max(steps, default=-1)
