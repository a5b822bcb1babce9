"""Hard links to the files of committed checkpoints, which stay while these are uploaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from clac_jax.bucket.commits import files_of, is_data, local_manifest
from clac_jax.checkpoint.files import MANIFEST, DamagedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.checkpoint.remote import read_remote
from clac_jax.files.crc import crc32, file_crc32

PINS = ".upload"  # in the mirror


@dataclass(frozen=True)
class Pinned:
    """A committed checkpoint of the mirror.

    Attributes:
        step: its step.
        folder: its folder, or that of its hard links.
        manifest: content of its `files.json`.
        elsewhere: name -> size of the files that are only in the bucket: other processes of the run
            have put them there, and `remote.json` lists them.
    """

    step: int
    folder: Path
    manifest: bytes
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> int:
        """Equal for two checkpoints with the same files: the checksum in `files.json`."""
        return identity(self.manifest)

    @property
    def data(self) -> list[str]:
        """The files with random names that are to be uploaded."""
        names = sorted(files_of(self.manifest).keys() - self.elsewhere.keys())
        return [name for name in names if is_data(name)]

    def small(self) -> dict[str, bytes]:
        """Name -> content of all other files, `files.json` included.

        Raises:
            DamagedCheckpointError: a file differs from what was written.
        """
        contents = {MANIFEST: self.manifest}
        for name, (size, crc) in files_of(self.manifest).items():
            if not is_data(name):
                content = (self.folder / name).read_bytes()
                if (len(content), crc32(content)) != (size, crc):
                    self._damaged(name)
                contents[name] = content
        return contents

    def check(self, name: str) -> None:
        """Reads a file again before it is uploaded.

        Raises:
            DamagedCheckpointError: it differs from what was written.
        """
        if file_crc32(self.folder / name) != files_of(self.manifest)[name][1]:
            self._damaged(name)

    def _damaged(self, name: str) -> None:
        raise DamagedCheckpointError(self.folder / name, "does not hold what was written")


def identity(manifest: bytes) -> int:
    """The checksum in a `files.json`, which does not depend on the fencing number in it."""
    return int(json.loads(manifest)["crc32"])


def committed_steps(mirror: Path) -> dict[int, Pinned]:
    """Step -> checkpoint, for every committed checkpoint of the mirror, oldest first.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    found = {}
    for step, folder in step_folders(epath.Path(mirror) / CHECKPOINTS).items():
        manifest = local_manifest(Path(folder))
        if manifest is not None and _is_valid(manifest):
            found[step] = Pinned(step, Path(folder), manifest)
    return found


def pin(mirror: Path, checkpoint: Pinned) -> Pinned | None:
    """Links the files of a checkpoint, so that a removal in the mirror does not take them away.

    Returns:
        The checkpoint with its links; None if it was removed or replaced in the meantime.

    Raises:
        OSError: the links cannot be made.
    """
    target = mirror / PINS / str(checkpoint.step)
    unpin(mirror, checkpoint.step)
    elsewhere = _elsewhere(checkpoint)
    try:
        for name in (*(files_of(checkpoint.manifest).keys() - elsewhere.keys()), MANIFEST):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _link(checkpoint.folder / name, target / name)
    except FileNotFoundError:
        if not mirror.is_dir():
            raise
        unpin(mirror, checkpoint.step)
        return None
    if local_manifest(checkpoint.folder) != checkpoint.manifest:  # replaced by another save
        unpin(mirror, checkpoint.step)
        return None
    return Pinned(checkpoint.step, target, checkpoint.manifest, elsewhere)


def unpin(mirror: Path, step: int) -> None:
    """Removes the links of a checkpoint."""
    shutil.rmtree(mirror / PINS / str(step), ignore_errors=True)


def unpin_all(mirror: Path) -> None:
    """Removes all links, also those that a killed process has left."""
    shutil.rmtree(mirror / PINS, ignore_errors=True)


def _elsewhere(checkpoint: Pinned) -> dict[str, int]:
    remote = read_remote(checkpoint.folder)
    files = {} if remote is None else remote.files
    return {
        name: size
        for name, (size, _) in files.items()
        if is_data(name) and not os.path.lexists(checkpoint.folder / name)
    }


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _is_valid(manifest: bytes) -> bool:
    try:
        files_of(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True
