"""The disk space of checkpoints that have files in common."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from clac_jax.checkpoint.layout import step_folders
from clac_jax.checkpoint.remote import REMOTE_FILE
from clac_jax.errors import origin_of


@dataclass(frozen=True)
class Usage:
    """The disk space of some checkpoints.

    Attributes:
        num_bytes: size of their files, each counted once.
        own: the part of it that their removal would free: of files that nothing else has.
    """

    num_bytes: int
    own: int


def usage_of(folders: Iterable[os.PathLike[str]]) -> Usage:
    """Measures some checkpoints together; what has been removed since is left out."""
    names: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for folder in folders:
        for _, facts in _files(Path(folder)):
            identity = facts.st_dev, facts.st_ino
            names[identity] += 1
            found[identity] = facts
    own = [facts for identity, facts in found.items() if facts.st_nlink <= names[identity]]
    return Usage(sum(f.st_size for f in found.values()), sum(f.st_size for f in own))


def is_local(folder: os.PathLike[str]) -> bool:
    """Whether a checkpoint is on this disk, and not a copy of one in an object store."""
    return not (os.path.lexists(Path(folder) / REMOTE_FILE) or origin_of(folder))


def sharers(path: Path, folder: epath.Path) -> list[int]:
    """The steps of the other checkpoints of a run that have the same file.

    Args:
        path: a file of a checkpoint.
        folder: the checkpoint.
    """
    try:
        facts = os.stat(path)
    except OSError:
        return []
    if facts.st_nlink == 1:
        return []
    name = path.relative_to(folder)
    others = ((step, Path(other) / name) for step, other in step_folders(folder.parent).items())
    return [step for step, other in others if other != path and _is_same(other, facts)]


def _is_same(path: Path, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), facts)
    except OSError:
        return False


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                yield path, os.lstat(path)
            except OSError:  # removed since
                continue
