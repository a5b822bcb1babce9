"""What lies in a run's `checkpoints/`, read without Orbax, JAX or the model.

checkpoints/<step>/state/          the arrays, in Orbax's OCDBT format
checkpoints/<step>/run/metadata    JSON: `CheckpointInfo`
checkpoints/<step>/files.json      size and checksum of every file, written last
checkpoints/<step>.unfinished      there while the step is written
checkpoints/being_deleted/         on its way out, also being_replaced/
checkpoints/damaged/               what a resumed run could not trust
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from clac_jax.checkpoint.files import (
    MANIFEST,
    DamagedCheckpointError,
    RemovedCheckpointError,
    UnreadableCheckpointError,
    check_files,
    read_json,
    total_size,
)
from clac_jax.config.renamed import upgraded
from clac_jax.errors import UserError
from clac_jax.files.paths import explain
from clac_jax.training.progress import RunProgress

CHECKPOINTS = "checkpoints"
STATE, RUN = "state", "run"
RUN_FILE = "run/metadata"
MERGED = "manifest.ocdbt"  # in the state's folder: where each array lies
COMMITTED = "commit_success.txt"  # Orbax's mark, in the checkpoint and in each of its parts
# Of that file; raised when an older version could not read it. Format 1 has one step count of Adam
# for all parameters and does not say which data it was trained on.
FORMAT, READABLE = 2, (1, 2)
# Beside the steps in `checkpoints/`: what is on its way out. A folder is renamed into one of these
# before anything in it is deleted, so a step that is there is complete.
DELETED, REPLACED = "being_deleted", "being_replaced"
DAMAGED = "damaged"  # beside them, and so on their disk: what a resumed run could not trust
EARLIER_DAMAGED = "damaged_checkpoints"  # in the workdir: where they were put first
# Behind a step's number: a file that is there while the step is written. Until then the step lacks
# its list of files and is not a checkpoint; a step that lacks it without this mark has lost it.
UNFINISHED = ".unfinished"
ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax is writing into
MAX_NUMBERS = 1 << 50  # in one array
DTYPES = {"bool", "bfloat16", "complex64", "complex128", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


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
        config: the nested config of the run that wrote it, its keys named as in this version.
        versions: package name -> version at that time.
        num_train_examples: of the split that the position in the epoch refers to.
        saved_at: seconds since 1970.
        leaves: slash path ("params/logit_scale") -> what was saved.
        data: split name -> fingerprint of the data that it was trained and measured on; {} in
            checkpoints of format 1, which do not say.
        renamed: one line for each key of the config that has another name now.
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
    renamed: tuple[str, ...] = ()

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
        """All but the folder and what was renamed, as plain values."""
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
        config, lines = upgraded(values.pop("config"))
        return cls(
            folder=folder,
            progress=progress,
            config=config,
            leaves=leaves,
            data=data,
            renamed=tuple(lines),
            **values,
        )


def step_folders(directory: epath.Path) -> dict[int, epath.Path]:
    """Step -> folder of every committed checkpoint in a `checkpoints/`, oldest first.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    paths = entries(directory)
    marked = {path.name for path in paths if path.name.endswith(UNFINISHED)}
    folders = {int(path.name): path for path in paths if is_step(path.name) and path.is_dir()}
    return {
        step: path
        for step, path in sorted(folders.items())
        if f"{step}{UNFINISHED}" not in marked or os.path.lexists(path / MANIFEST)
    }


def unfinished(directory: epath.Path) -> list[epath.Path]:
    """The folders in a `checkpoints/` whose saves were cut off before the list of files.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    there = step_folders(directory).values()
    paths = [path for path in entries(directory) if is_step(path.name) and path.is_dir()]
    return [path for path in paths if path not in there]


def entries(directory: epath.Path) -> list[epath.Path]:
    """What lies in a `checkpoints/`; nothing if it is not there.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    if not directory.is_dir():
        return []
    try:
        return [directory / name for name in sorted(os.listdir(directory))]
    except OSError as error:
        raise UnreadableCheckpointError(f"Cannot read {directory}: {explain(error)}") from error


def is_step(name: str) -> bool:
    """Whether a checkpoint's folder can have this name; "²" and "007" are not."""
    return re.fullmatch("0|[1-9][0-9]{0,18}", name, re.ASCII) is not None


def read_info(folder: epath.Path) -> CheckpointInfo:
    """Reads a checkpoint's description, after a check of its small files and of all sizes.

    Raises:
        DamagedCheckpointError: naming the file that is not what was written.
        UnreadableCheckpointError: permissions or the file system stop the reading.
        CheckpointFormatError: it is intact, but of another version's format.
    """
    check_files(folder)
    path = folder / RUN_FILE
    try:
        values = read_json(path)
    except DamagedCheckpointError:
        check_files(folder)  # it was there a moment ago
        raise
    if not isinstance(values, dict):
        raise DamagedCheckpointError(path, "does not describe a checkpoint")
    if values.pop("format", None) not in READABLE:
        versions = values.get("versions")
        version = versions.get("clac-jax") if isinstance(versions, dict) else None
        raise CheckpointFormatError(
            f"{path} was written by another version of clac_jax ({version or 'unknown'}). Use that "
            "version."
        )
    try:
        info = CheckpointInfo.from_json(folder, values)
        problem = wrong_description(info)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedCheckpointError(path, "does not describe a checkpoint") from error
    if problem:
        raise DamagedCheckpointError(path, f"does not describe a checkpoint: {problem}")
    if is_step(folder.name) and int(folder.name) != info.step:
        raise DamagedCheckpointError(path, f"is that of step {info.step}, under another name")
    return info


def read_all(
    directory: epath.Path,
) -> tuple[dict[int, CheckpointInfo], dict[int, DamagedCheckpointError]]:
    """The checkpoints of a `checkpoints/`, and what is wrong with those that cannot be trusted.

    A run may be saving: what it has removed since the folder was listed is left out.
    """
    whole, damaged = {}, {}
    for step, folder in step_folders(directory).items():
        try:
            whole[step] = read_info(folder)
        except RemovedCheckpointError:
            continue
        except DamagedCheckpointError as error:
            damaged[step] = error
    return whole, damaged


def wrong_description(info: CheckpointInfo) -> str | None:
    """What in a description has another type than what is written there, or None."""
    counts = ("step", "epoch", "examples_in_epoch", "examples_seen", "validations_since_best")
    for name in counts:
        if not _is_count(getattr(info.progress, name)):
            return f"progress.{name} is {getattr(info.progress, name)!r:.40}"
    for name in ("best_value", "plateau_best", "learning_rate_scale"):
        value = getattr(info.progress, name)
        if not (value is None or _is_number(value)):
            return f"progress.{name} is {value!r:.40}"
    if not _is_count(info.num_train_examples) or not _is_number(info.saved_at):
        return "num_train_examples or saved_at is not a number"
    metrics = {} if info.metrics is None else info.metrics
    if not all(_is_number(value) for value in metrics.values()):
        return "metrics holds something that is not a number"
    if not all(isinstance(value, str) for value in info.versions.values()):
        return "versions holds something that is not text"
    for group in ("checkpoint", "input", "dataset"):
        if not isinstance(info.config[group], dict):
            return f"config.{group} is not a group of keys"
    options = info.config["checkpoint"]
    if not (
        type(options["save_top_k"]) is int
        and isinstance(options["monitor"], str)
        and options["mode"] in ("min", "max")
        and _is_count(options["keep_every_n_steps"])
        and "seed" in info.config
    ):
        return "config has values that no run has"
    for path, leaf in info.leaves.items():
        sound = all(_is_count(size) for size in leaf.shape) and math.prod(leaf.shape) < MAX_NUMBERS
        if not (sound and isinstance(leaf.dtype, str) and _is_count(leaf.crc32)):
            return f"array {path[:80]!r}"
        if not _is_number(leaf.norm) or leaf.dtype not in DTYPES:
            return f"array {path[:80]!r}"
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
