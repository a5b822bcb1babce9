"""Removal of checkpoints: expired ones, the remains of a killed save, and damaged ones.

A failed removal never stops a run: it is reported, and tried again after the next save and at the
next start. It is common on network file systems, where a file that someone holds open cannot be
removed with its folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence

from etils import epath

from clac_jax.checkpoint.layout import (
    DAMAGED,
    DELETED,
    ORBAX_UNFINISHED,
    PARTS,
    REPLACED,
    UNFINISHED,
    entries,
    is_step,
    step_folders,
    unfinished,
)
from clac_jax.files.paths import explain

ATTEMPTS, PAUSE = 3, 0.1  # threads of a failed save may still write briefly


def remove(path: epath.PathLike) -> None:
    """Removes a file, a link, or a folder with its content; a missing path is not an error.

    Raises:
        OSError: it cannot be removed; part of it may already be removed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE)


def finish_interrupted(directory: epath.Path) -> list[str]:
    """Finishes or removes what a killed save has left in a `checkpoints/`.

    Returns:
        A sentence for each item that could not be removed, with the reason.
    """
    problems = [p for path in unfinished(directory) for p in _moved_to_trash(directory, path)]
    is_cleared = not problems
    there = {path.name for path in entries(directory) if is_step(path.name) and path.is_dir()}
    for step, folder in step_folders(directory / REPLACED).items():
        if str(step) not in there:
            try:
                os.rename(folder, directory / str(step))
            except OSError as error:
                problems.append(f"{folder} cannot be moved back: {explain(error)}")
    if not problems:
        for path in entries(directory / REPLACED):
            problems += _moved_to_trash(directory, path)
        problems += _removed(directory / REPLACED) if not problems else []
    problems += empty_trash(directory)
    for path in entries(directory):
        if ORBAX_UNFINISHED in path.name or (is_cleared and path.name.endswith(UNFINISHED)):
            problems += _removed(path)
    return problems


def remove_parts(directory: epath.Path) -> list[str]:
    """Removes the parts of saves that were never committed, when no process is saving.

    Returns:
        A sentence for each that could not be removed, with the reason.
    """
    paths = [path for path in entries(directory) if PARTS in path.name]
    return [problem for path in paths for problem in _removed(path)]


def discard(directory: epath.Path, path: epath.Path) -> list[str]:
    """Moves a checkpoint to where nothing that reads `checkpoints/` sees it, and removes it.

    The folder is renamed before anything in it is deleted, so every existing step is complete.

    Returns:
        Sentences on why it still exists, or why part of it still takes space; empty on success.
    """
    return _moved_to_trash(directory, path) or empty_trash(directory)


def empty_trash(directory: epath.Path) -> list[str]:
    """Removes what earlier removals have left; returns a list like `discard`."""
    place = directory / DELETED
    problems = [problem for path in entries(place) for problem in _removed(path)]
    return problems or _removed(place)


def set_aside(directory: epath.Path, steps: Sequence[int]) -> list[str]:
    """Moves damaged checkpoints into `checkpoints/damaged`.

    Returns:
        A sentence for each that could not be moved, with the reason; readers skip it there, too.
    """
    problems = []
    for step in steps:
        path = directory / str(step)
        try:
            move_away(path, directory / DAMAGED)
        except OSError as error:
            problems.append(f"{path} is damaged and cannot be set aside: {explain(error)}")
    return problems


def move_away(path: epath.Path, place: epath.Path) -> None:
    """Moves something into a folder, which is created, under an unused name.

    Raises:
        OSError: it could not be moved.
    """
    os.makedirs(place, exist_ok=True)
    target, number = place / path.name, 1
    while os.path.lexists(target):
        target, number = place / f"{path.name}-{number}", number + 1
    os.rename(path, target)


def strangers(directory: epath.Path) -> list[str]:
    """Names in a `checkpoints/` that look like a step but are not folders."""
    return [path.name for path in entries(directory) if is_step(path.name) and not path.is_dir()]


def _moved_to_trash(directory: epath.Path, path: epath.Path) -> list[str]:
    try:
        move_away(path, directory / DELETED)
    except OSError as error:
        return [f"{path} cannot be removed: {explain(error)}"]
    return []


def _removed(path: epath.Path) -> list[str]:
    try:
        remove(path)
    except OSError as error:
        return [f"{path} cannot be removed: {explain(error)}"]
    return []
