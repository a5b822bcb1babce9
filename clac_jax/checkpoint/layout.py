"""What lies in a run's `checkpoints/`, read without Orbax, JAX or the model.

checkpoints/<step>/state/          the arrays, in Orbax's OCDBT format
checkpoints/<step>/run/metadata    JSON: `CheckpointInfo`
checkpoints/<step>/files.json      size and checksum of every file
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from clac_jax.checkpoint.files import DamagedCheckpointError, check_files, total_size
from clac_jax.errors import UserError
from clac_jax.progress import RunProgress

CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"  # beside it: what a resumed run found there and could not trust
STATE, RUN = "state", "run"
RUN_FILE = "run/metadata"
# Of that file; raised when an older version could not read it. Format 1 has one step count of Adam
# for all parameters and does not say which data it was trained on.
FORMAT, READABLE = 2, (1, 2)
# Beside the steps in `checkpoints/`: what is on its way out. A folder is renamed into one of these
# before anything in it is deleted, so a step that is there is whole.
DELETED, REPLACED = "being_deleted", "being_replaced"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of the folder that Orbax is writing into


class CheckpointFormatError(UserError):
    """A checkpoint of a version that writes it in another way."""


@dataclass(frozen=True)
class Leaf:
    """One saved array.

    Attributes:
        shape: of the array.
        dtype: its NumPy name.
        crc32: of its bytes in C order.
        norm: its l2 norm.
    """

    shape: tuple[int, ...]
    dtype: str
    crc32: int
    norm: float

    def to_json(self) -> list[Any]:
        """[shape, dtype, crc32, norm]."""
        return [list(self.shape), self.dtype, self.crc32, self.norm]

    @classmethod
    def from_json(cls, values: list[Any]) -> Leaf:
        """The inverse of `to_json`."""
        return cls(tuple(values[0]), *values[1:])


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything about a checkpoint but its arrays.

    Attributes:
        folder: the checkpoint's own, `checkpoints/<step>`.
        progress: where the run was.
        metrics: of the validation at this step, or None between validations.
        config: the nested config of the run that wrote it.
        versions: package name -> version at that time.
        num_train_examples: of the split that the position in the epoch refers to.
        saved_at: seconds since 1970.
        leaves: slash path ("params/logit_scale") -> what was saved.
        data: split name -> fingerprint of the data that it was trained and measured on; {} in
            checkpoints of format 1, which do not say.
    """

    folder: epath.Path
    progress: RunProgress
    metrics: dict[str, float] | None
    config: dict[str, Any]
    versions: dict[str, str]
    num_train_examples: int
    saved_at: float
    leaves: Mapping[str, Leaf]
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The optimizer updates done."""
        return self.progress.step

    @property
    def ended_epoch(self) -> int | None:
        """The epoch that had just ended, or None in the middle of one."""
        ended = self.progress.examples_in_epoch == 0 and self.progress.epoch > 0
        return self.progress.epoch - 1 if ended else None

    @property
    def num_bytes(self) -> int:
        """On the disk."""
        return total_size(self.folder)

    def to_json(self) -> dict[str, Any]:
        """All but the folder, as plain values."""
        return {
            "format": FORMAT,
            "progress": self.progress.to_json(),
            "metrics": self.metrics,
            "config": self.config,
            "versions": self.versions,
            "num_train_examples": self.num_train_examples,
            "saved_at": self.saved_at,
            "data": dict(self.data),
            "leaves": {path: leaf.to_json() for path, leaf in self.leaves.items()},
        }

    @classmethod
    def from_json(cls, folder: epath.Path, values: dict[str, Any]) -> CheckpointInfo:
        """The inverse of `to_json`."""
        values = dict(values)
        leaves = {path: Leaf.from_json(leaf) for path, leaf in values.pop("leaves").items()}
        progress = RunProgress.from_json(values.pop("progress"))
        data = {str(split): str(text) for split, text in values.pop("data", {}).items()}
        return cls(folder=folder, progress=progress, leaves=leaves, data=data, **values)


def finish_interrupted(directory: epath.Path) -> None:
    """Finishes or removes what a killed save had begun in a `checkpoints/`."""
    there = step_folders(directory)
    for step, folder in step_folders(directory / REPLACED).items():
        if step not in there:
            folder.rename(directory / str(step))
    remove(directory / REPLACED)
    remove(directory / DELETED)
    if directory.is_dir():
        for folder in directory.iterdir():
            if UNFINISHED in folder.name:
                remove(folder)


def remove(folder: epath.Path) -> None:
    """Removes a folder and all in it, if it is there."""
    if folder.exists():
        folder.rmtree() if is_remote(folder) else shutil.rmtree(folder)


def is_remote(path: epath.Path) -> bool:
    """Whether a path is a URL of a store and not in the file system."""
    return "://" in str(path)


def step_folders(directory: epath.Path) -> dict[int, epath.Path]:
    """Step -> folder of every committed checkpoint in a `checkpoints/`, oldest first."""
    if not directory.is_dir():
        return {}
    folders = {int(path.name): path for path in directory.iterdir() if path.name.isdigit()}
    return dict(sorted(folders.items()))


def read_info(folder: epath.Path) -> CheckpointInfo:
    """Reads a checkpoint's description, after a check of its small files and of all sizes.

    Raises:
        DamagedCheckpointError: naming the file that is not what was written.
        CheckpointFormatError: it is whole, but of another version's format.
    """
    check_files(folder)
    path = folder / RUN_FILE
    values = json.loads(path.read_text())
    if values.pop("format", None) not in READABLE:
        raise CheckpointFormatError(
            f"{path} was written by another version of clac_jax "
            f"({values.get('versions', {}).get('clac-jax', 'unknown')}). Use that version."
        )
    return CheckpointInfo.from_json(folder, values)


def read_all(
    directory: epath.Path,
) -> tuple[dict[int, CheckpointInfo], dict[int, DamagedCheckpointError]]:
    """The checkpoints of a `checkpoints/`, and what is wrong with those that cannot be trusted."""
    whole, damaged = {}, {}
    for step, folder in step_folders(directory).items():
        try:
            whole[step] = read_info(folder)
        except DamagedCheckpointError as error:
            damaged[step] = error
    return whole, damaged
