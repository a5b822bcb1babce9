"""Checks that the workdir is one folder for all processes, which each of them can write to."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import jax

from clac_jax.distributed import processes
from clac_jax.distributed.sending import any_text
from clac_jax.distributed.workdir import LOCK_FILE, check_writable
from clac_jax.errors import WorkdirError, error_reason

SECONDS = 15.0  # after which a network file system must show a new file to the other hosts


def check_shared(workdir: Path) -> None:
    """Checks that all processes of the run see the folder that the first one has locked.

    A collective: every process must call it.

    Raises:
        WorkdirError: one of them does not; raised in every process.
    """
    locked = any_text(_lock_of(workdir) if processes.is_first() else "")
    problem = _problem(workdir, locked)
    if problem := any_text(problem and f"process {jax.process_index()} {problem}"):
        raise WorkdirError(
            f"--workdir={workdir} is not shared by all processes: {problem}. With "
            "config.sharding.what, each process saves its part of the state there. Name a folder "
            "that all hosts share, or set config.sharding.what=nothing."
        )


def _problem(workdir: Path, locked: str) -> str:
    deadline = time.monotonic() + SECONDS
    while _lock_of(workdir) != locked:
        if time.monotonic() > deadline:
            return "does not see the files of the first one"
        with contextlib.suppress(OSError):
            os.listdir(workdir)  # makes a network file system look again
        time.sleep(0.1)
    try:
        check_writable(workdir)
    except OSError as error:
        return f"cannot write to it ({error_reason(error)})"
    return ""


def _lock_of(workdir: Path) -> str:
    try:
        return (workdir / LOCK_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
